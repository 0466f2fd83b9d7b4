"""What a run leaves in its folder beside its results: checkpoints, logs, its config and origin; and W&B's mode."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import MutableMapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger, WandbLogger

from lightning_modules.callbacks.evaluation_run import complete_provenance
from lightning_modules.cli.saving import ContinuedCSVLogger
from lightning_modules.common.files import file_hash, write_text
from lightning_modules.common.shipped import PACKAGE
from lightning_modules.common.wandb_login import has_login
from lightning_modules.reporting.findings import TrainingState
from lightning_modules.reporting.run_files import write_json

PACKAGES = (
    "torch", "torchvision", "pytorch-lightning", "torchmetrics", "timm", "kornia", "diffusers", "numpy", "scikit-learn",
    "wandb",
)  # fmt: skip


def last_checkpoint(run_dir: Path, every_n_epochs: int) -> ModelCheckpoint:
    """The callback that keeps `checkpoints/last.ckpt`."""
    return ModelCheckpoint(
        dirpath=run_dir / "checkpoints",
        filename="last",
        enable_version_counter=False,
        save_top_k=1,
        every_n_epochs=every_n_epochs,
        save_on_train_epoch_end=True,
        save_last=False,
    )


def loggers(run_dir: Path, experiment: str, purpose: str, from_step: int = 0) -> list[Logger]:
    """A CSV file, which goes on from a step of a resumed training, and W&B."""
    return [
        ContinuedCSVLogger(run_dir, from_step),
        WandbLogger(
            project="manifold-fingerprints",
            name=f"{experiment}/{run_dir.name}",
            group=experiment,
            job_type=purpose,
            save_dir=run_dir,
        ),
    ]


def write_record(
    run_dir: Path, settings: str, command: Sequence[str], purpose: str, experiment: str, checkpoint: Path | None
) -> None:
    """Write `config.yaml` and `provenance.json`; the config of an earlier part of the run stays as `config.1.yaml`."""
    config = run_dir / "config.yaml"
    if config.is_file() and config.read_text() != settings:
        earlier = len(list(run_dir.glob("config.*.yaml"))) + 1
        config.rename(run_dir / f"config.{earlier}.yaml")
    write_text(config, settings)
    write_json(
        run_dir / "provenance.json",
        {
            "command": list(command),
            "purpose": purpose,
            "experiment": experiment,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "packages": {package: version(package) for package in PACKAGES},
            "git_commit": git_commit(),
            "hashes": {} if checkpoint is None else {"checkpoint": _hashed(checkpoint)},
        },
    )


def _hashed(checkpoint: Path) -> dict[str, str]:
    return {"hash": file_hash(checkpoint), "path": str(checkpoint)}


def git_commit() -> str | None:
    """The commit of the checkout that runs, with `+` where files differ from it; None of an installed package."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    git = ["git", "-C", str(PACKAGE.parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed.stdout.strip() else "")


def close_record(run_dir: Path, trainer: pl.Trainer) -> TrainingState | None:
    """Add how far the training behind the weights had come, close the W&B run; returns that state."""
    training = complete_provenance(run_dir, trainer)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            if training is not None:
                logger.experiment.summary.update(
                    {f"training/{name}": value for name, value in training.to_json().items()}
                )
            logger.experiment.finish()  # so that its file is whole
    return training


def choose_wandb_mode(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Set `WANDB_MODE` where it is not set: offline, except for a run of a sweep agent, whose server waits for it.

    Returns a warning for the user where a sweep agent's run has to stay offline.
    """
    if "WANDB_MODE" in environment:
        return None
    if environment.get("WANDB_SWEEP_ID") and has_login(environment):
        return None  # W&B's own default: online
    environment["WANDB_MODE"] = "offline"
    if not environment.get("WANDB_SWEEP_ID"):
        return None
    return (
        f"found a run of the W&B sweep {environment['WANDB_SWEEP_ID']} but no login, so it stays offline and the sweep "
        "gets none of its numbers; log in with `wandb login` or WANDB_API_KEY, or set WANDB_MODE=offline to mean it"
    )
