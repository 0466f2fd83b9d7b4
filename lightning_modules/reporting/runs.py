"""Run folders, read back: their settings, those of earlier versions under today's names, and their metrics."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.fingerprints import settings as fingerprint
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.findings import TrainingState
from lightning_modules.reporting.long_table import (
    EVALUATION_FILE,
    Result,
    Unfinished,
    read_evaluation,
    read_results,
    unfinished,
)
from lightning_modules.reporting.row_scores import RowScores, read_row_scores
from lightning_modules.reporting.run_files import METRICS_FILE, read_metrics
from lightning_modules.representations import settings as attribution

SEED = "seed_everything"
# Settings in which runs of one experiment may differ: at any depth, where a run lives and what it continues;
_PLACES = ("run_dir", "runs_dir", "ckpt_path", "default_root_dir", "dirpath", "save_dir", "config", "out", "fresh")
# what it shows and logs meanwhile;
_SHOWN = ("allow_training_images", "enable_progress_bar", "enable_model_summary", "logger", "log_every_n_steps")
# what a test says and a training that is tested at once does not, where it means the same;
_UNSAID = {"label_space": "as-trained"}
# where it is computed and where copies of its data are kept, which the numbers do not depend on;
_MACHINE = ("devices", "num_nodes", "accelerator", "num_workers", "cache_dir", "pin_memory", "persistent_workers")
_MACHINE_BELOW = ("trainer.strategy", "model.init_args.manifold.dir", "model.init_args.manifold.search_memory_mib")
# and its seeds, but not the data's: other splits make another experiment.
_SEEDS = (SEED, "model.init_args.model_seed")


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    name: str  # the experiment's, from `provenance.json`; empty where there is none
    seed: str  # `seed_everything` of its config, with the module's own seed behind it where that is another
    settings: Mapping[str, Any]  # every other setting by dotted key, less the paths of the run itself, and `machine`
    metrics: Mapping[str, Estimate]  # its `metrics.json`
    training: TrainingState | None = None  # how far that of its weights had come; None where it does not say
    results: Sequence[Result] = ()  # its long table
    machine: Mapping[str, Any] = field(default_factory=dict)  # settings of where it was computed: devices, strategy
    evaluation: Mapping[str, Any] = field(default_factory=dict)  # `evaluation.json`; empty in earlier versions
    provenance: Mapping[str, Any] = field(default_factory=dict)  # `provenance.json`

    @functools.cached_property
    def rows(self) -> RowScores | None:
        """What each test image gave; None where the folder has no such rows. Read when asked for."""
        return read_row_scores(self.folder)

    @property
    def hashes(self) -> dict[str, str]:
        """Hashes of what it was made from, by what that is: `checkpoint`, `data`, `manifold`."""
        found = self.provenance.get("hashes") or {}
        given = {name: entry.get("hash") if isinstance(entry, dict) else entry for name, entry in found.items()}
        return {name: str(entry) for name, entry in given.items() if entry}


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[Unfinished]]:
    """Read run folders: those of finished evaluations, and how far the others have come.

    Raises:
        ValueError: no folder, some hold no evaluation (the message names all of them), or none is finished.
    """
    runs: list[Run] = []
    aside: list[Unfinished] = []
    problems: list[str] = []
    empty: list[str] = []
    for folder in folders:
        try:
            read = _read(folder)
        except (OSError, ValueError) as error:
            nothing = folder.is_dir() and not any((folder / name).is_file() for name in (METRICS_FILE, EVALUATION_FILE))
            (empty if nothing else problems).append(str(error))
            aside += [Unfinished(folder, 0, 0)] if nothing else []
            continue
        if isinstance(read, Run):
            runs.append(read)
        else:
            aside.append(read)
    problems += [] if runs else empty  # beside runs they are left aside
    if problems:
        raise ValueError(f"{len(problems)} of {len(folders)} folders cannot be compared: {'; '.join(problems)}")
    if aside and not runs:
        raise ValueError(f"found no finished evaluation: {' '.join(map(str, aside))}")
    if not runs:
        raise ValueError("found no run folder to compare; name at least one")
    return runs, aside


def _read(folder: Path) -> Run | Unfinished:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected a run folder with config.yaml and {METRICS_FILE}")
    evaluation = read_evaluation(folder)
    if evaluation is not None and not (folder / METRICS_FILE).is_file():
        return unfinished(folder, evaluation)
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
    kept = {key: value for key, value in flat.items() if not _of_run_alone(key) and _UNSAID.get(key) != value}
    machine = {key: value for key, value in kept.items() if _of_machine(key)}
    seeds = list(dict.fromkeys(str(flat[key]) for key in _SEEDS if key in flat)) or ["none"]
    provenance = read_provenance(folder)
    metrics = read_metrics(folder)
    return Run(
        folder,
        name=str(provenance.get("experiment", "")),
        seed="/".join(seeds),
        settings={key: value for key, value in kept.items() if key not in machine},
        metrics=metrics,
        training=TrainingState.from_json(provenance.get("training")),
        results=read_results(folder, metrics),
        machine=machine,
        evaluation=evaluation or {},
        provenance=provenance,
    )


def read_provenance(folder: Path) -> dict[str, Any]:
    """`provenance.json` of a run folder; empty where there is none.

    Raises:
        ValueError: it is no JSON object.
    """
    path = folder / "provenance.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, expected facts by name")
    return found


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


def _of_machine(key: str) -> bool:
    below = any(key == one or key.startswith(f"{one}.") for one in _MACHINE_BELOW)
    return below or key.rpartition(".")[2] in _MACHINE


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
