"""What a run leaves in its folder beside its results: checkpoints, logs, its config and origin; and W&B's mode."""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import MutableMapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO

from lightning_modules.callbacks.training_record import training_behind
from lightning_modules.common.files import write_bytes, write_text
from lightning_modules.common.wandb_login import has_login
from lightning_modules.reporting.findings import TrainingState
from lightning_modules.reporting.run_files import write_json

PACKAGES = (
    "torch", "torchvision", "pytorch-lightning", "torchmetrics", "timm", "kornia", "diffusers", "numpy", "scikit-learn",
    "wandb",
)  # fmt: skip


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that replace the last one when they are whole: a full disk leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write one; Lightning's own writer copies it to its place, where the copy can end half way."""
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        return write_bytes(Path(path), buffer.getbuffer())


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


def loggers(run_dir: Path, experiment: str, purpose: str) -> list[Logger]:
    """A CSV file and W&B."""
    return [
        CSVLogger(run_dir, name="", version="logs"),
        WandbLogger(
            project="manifold-fingerprints",
            name=f"{experiment}/{run_dir.name}",
            group=experiment,
            job_type=purpose,
            save_dir=run_dir,
        ),
    ]


def write_record(run_dir: Path, settings: str, command: Sequence[str], purpose: str, experiment: str) -> None:
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
        },
    )


def close_record(run_dir: Path, trainer: pl.Trainer) -> TrainingState | None:
    """Add how far the training behind the weights had come, close the W&B run; returns that state."""
    training = training_behind(trainer)
    provenance = run_dir / "provenance.json"
    write_json(provenance, {**json.loads(provenance.read_text()), "training": training})
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
