"""One folder for everything a run leaves behind, the same on every process of a distributed run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.cli.processes import LAUNCHED, is_launched, started_together
from lightning_modules.common.shipped import trained_hint

_OF_ONE_RUN = ("trainer", "run_dir", "runs_dir", "ckpt_path", "fresh", "config")
LAST = Path("checkpoints") / "last.ckpt"
UNSHARED = (
    "found processes that torchrun or a scheduler has started, or several machines, expected a run folder that all of "
    "them know: name it with --run_dir"
)


def experiment_name(config: Path | None) -> str:
    """Name of an experiment: the config's path below ``configs/`` without its suffix.

    ``configs/attribution/rgb.yaml`` -> ``attribution/rgb``; the config of a run folder gives the run's experiment; a
    file elsewhere gives its stem.
    """
    if config is None:
        return "unnamed"
    provenance = config.parent / "provenance.json"
    if config.name == "config.yaml" and provenance.is_file():
        return str(json.loads(provenance.read_text())["experiment"])
    parts = config.resolve().with_suffix("").parts
    if "configs" in parts[:-1]:
        parts = parts[len(parts) - parts[::-1].index("configs") :]
        return "/".join(parts)
    return parts[-1]


def previous_runs(experiment: str, root: Path) -> list[Path]:
    """Training runs of an experiment that have a last checkpoint, oldest first."""
    folder = root / experiment
    return sorted(run for run in folder.iterdir() if (run / LAST).is_file()) if folder.is_dir() else []


def unfinished_run(root: Path, name: str, settings: Mapping[str, Any], checkpoint_hash: str) -> Path | None:
    """The newest run below `root/name` that the same command began and did not finish; None where there is none.

    The same command has the same `settings`, those of trainer and places aside, and a checkpoint of the same content;
    the number of processes may differ.
    """
    folder = root / name
    for run in sorted(folder.iterdir(), reverse=True) if folder.is_dir() else ():
        begun = [*run.glob("evaluation.json"), *run.glob("*.blocks/evaluation.json")]
        if not begun or (run / "metrics.json").is_file():
            continue
        try:
            before = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
            origin = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        same = _compared(before) == _compared(settings)
        if same and origin.get("hashes", {}).get("checkpoint", {}).get("hash") == checkpoint_hash:
            return run
    return None


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that two runs of the same command share."""
    return {name: value for name, value in settings.items() if name not in _OF_ONE_RUN}


def new_run_folder(experiment: str, root: Path) -> Path:
    """Make ``root/experiment/<date>-<time>``, or take the one that the launching process made.

    Raises:
        ValueError: torchrun or a scheduler started this process, so no process makes the folder for the others.
    """
    if is_launched():
        return Path(os.environ[LAUNCHED])
    if started_together():
        raise ValueError(UNSHARED)
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        folder = root / experiment / (stamp if attempt == 0 else f"{stamp}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise RuntimeError(f"{root / experiment}: a thousand runs in one second")


def share_run_folder(folder: Path) -> None:
    """Tell the processes that this one launches where the run lives."""
    os.environ[LAUNCHED] = str(folder)


def resolve_checkpoint(
    ckpt_path: str | None, experiment: str, root: Path, run_dir: Path | None, option: str = "--ckpt_path"
) -> Path | None:
    """Path of the checkpoint that ``--ckpt_path`` means: ``last``, a run folder, or a file; None for None.

    ``option`` is where it was named, for messages. ``last`` is that of ``run_dir`` where it is given, else of the
    experiment's newest run below ``root``.

    Raises:
        FileNotFoundError: There is no such checkpoint; the message says where it was looked for.
    """
    if ckpt_path is None:
        return None
    if ckpt_path == "last":
        runs = [run_dir] if run_dir is not None else previous_runs(experiment, root)
        if not runs or not (runs[-1] / LAST).is_file():
            looked = run_dir or root / experiment / "*"
            raise FileNotFoundError(
                f"--ckpt_path last: no {LAST} in {looked}; train first, or name a checkpoint file or a run folder"
            )
        return (runs[-1] / LAST).resolve()
    path = Path(ckpt_path)
    if path.is_dir():
        path = path / LAST
    if not path.is_file():
        last = ", `last`" if option == "--ckpt_path" else ""
        raise FileNotFoundError(
            f"{option} {ckpt_path}: found no file {path}; name a checkpoint, a run folder{last}, or a fingerprint that "
            f"ships: {trained_hint(ckpt_path)}"
        )
    return path.resolve()


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
