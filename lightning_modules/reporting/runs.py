"""Run folders, read back: their settings, those of earlier versions under today's names, and their metrics."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.fingerprints import settings as fingerprint
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.findings import TrainingState
from lightning_modules.reporting.run_files import METRICS_FILE, read_metrics
from lightning_modules.representations import settings as attribution

SEED = "seed_everything"
# Settings in which runs of one experiment may differ: at any depth, where a run lives and what it continues;
_PLACES = ("run_dir", "runs_dir", "ckpt_path", "default_root_dir", "dirpath", "save_dir", "config", "out")
# what it shows and logs meanwhile;
_SHOWN = ("enable_progress_bar", "enable_model_summary", "logger", "log_every_n_steps")
# and its seeds, but not the data's: other splits make another experiment.
_SEEDS = (SEED, "model.init_args.model_seed")


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    name: str  # the experiment's, from `provenance.json`; empty where there is none
    seed: str  # `seed_everything` of its config, with the module's own seed behind it where that is another
    settings: Mapping[str, Any]  # every other setting by dotted key, less the paths of the run itself
    metrics: Mapping[str, Estimate]  # its `metrics.json`
    training: TrainingState | None = None  # how far that of its weights had come; None where it does not say


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders.

    Raises:
        ValueError: no folder, or some are no evaluated runs; the message names all of them.
    """
    runs, problems = [], []
    for folder in folders:
        try:
            runs.append(_read(folder))
        except (OSError, ValueError) as error:
            problems.append(str(error))
    if problems:
        raise ValueError(f"{len(problems)} of {len(folders)} folders cannot be compared: {'; '.join(problems)}")
    if not runs:
        raise ValueError("found no run folder to compare; name at least one")
    return runs


def _read(folder: Path) -> Run:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected a run folder with config.yaml and {METRICS_FILE}")
    missing = [name for name in ("config.yaml", METRICS_FILE) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is no evaluated run: {' and '.join(missing)} missing, as where a training was refused or "
            "stopped before its test; test it with `evaluate.py test`, delete it, or leave it out"
        )
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{folder / 'config.yaml'} is no YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.yaml'} holds a {type(config).__name__}; expected settings by name")
    flat = flat_settings(current_config(config))
    settings = {key: value for key, value in flat.items() if not _of_run_alone(key)}
    seeds = list(dict.fromkeys(str(flat[key]) for key in _SEEDS if key in flat)) or ["none"]
    provenance = {}
    if (folder / "provenance.json").is_file():
        provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    training = TrainingState.from_json(provenance.get("training"))
    return Run(folder, str(provenance.get("experiment", "")), "/".join(seeds), settings, read_metrics(folder), training)


def flat_settings(value: Any, key: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; list items by position, so that a path among a callback's arguments has a key."""
    if isinstance(value, dict) and value:
        items = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [(str(position), item) for position, item in enumerate(value)]
    else:
        return {key: value}
    flat: dict[str, Any] = {}
    for part, item in items:
        flat |= flat_settings(item, f"{key}.{part}" if key else part)
    return flat


def _of_run_alone(key: str) -> bool:
    return key in _SEEDS or key.rpartition(".")[2] in (*_PLACES, *_SHOWN)


def epoch_means(log: Path, titles: Mapping[str, str]) -> dict[str, list[tuple[float, float]]]:
    """Curves of (epoch, mean of what was logged during it), in order of epochs, by title.

    `titles` says which columns of the CSV file `log`, if it is there, to read, and what to call each; columns with
    fewer than two epochs are left out.
    """
    if not log.is_file():
        return {}
    with log.open(newline="") as file:
        lines = list(csv.DictReader(file))
    curves = {}
    for name, title in titles.items():
        epochs: dict[float, list[float]] = {}
        for line in lines:
            if line.get(name) and line.get("epoch"):
                epochs.setdefault(float(line["epoch"]), []).append(float(line[name]))
        if len(epochs) > 1:
            curves[title] = [(epoch, sum(values) / len(values)) for epoch, values in sorted(epochs.items())]
    return curves


_TRANSLATE: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "Attributor": attribution.current_settings,
    "LatentFingerprint": fingerprint.current_settings,
}
"""What gives the settings of each module their names and groups of today."""
_HELD_BY = {"Attributor": {"embedding", "controls"}, "LatentFingerprint": {"generator", "decoder"}}
"""Hyper-parameters that a checkpoint of each module holds, in every version."""


def current_config(config: Any) -> Any:
    """A run's config with the settings of its module under today's names; any other config as it is."""
    model = config.get("model") if isinstance(config, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(model.get("init_args"), Mapping):
        return config
    translate = _TRANSLATE.get(str(model.get("class_path")).rpartition(".")[2])
    if translate is None:
        return config
    translated = translate(model["init_args"])
    return config if translated == model["init_args"] else {**config, "model": {**model, "init_args": translated}}


def current_hyper_parameters(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters that a checkpoint of any module holds, under today's names."""
    for name, held in _HELD_BY.items():
        if held <= set(stored):
            return _TRANSLATE[name](stored)
    return dict(stored)
