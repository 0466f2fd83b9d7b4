"""How far the training behind the weights has come: kept in checkpoints, told by whoever uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

from lightning_modules.reporting.findings import TrainingState

_KEY = "training"


class TrainingRecord(Callback):
    """Writes into every checkpoint how far the training has come, and how far it is to go."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entry `training`: plain numbers."""
        checkpoint[_KEY] = training_state(trainer).to_json()


def training_state(trainer: pl.Trainer) -> TrainingState:
    """Where the trainer's own training is."""
    return TrainingState(
        epochs=trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
        max_epochs=-1 if trainer.max_epochs is None else trainer.max_epochs,
        steps=trainer.global_step,
        max_steps=trainer.max_steps,
        stopped=bool(trainer.should_stop),
    )


def is_last_epoch(trainer: pl.Trainer) -> bool:
    """Whether a training ends with the epoch that ends now: by a limit, or by a rule that has asked it to stop."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    ends = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return ends or 0 <= steps <= trainer.global_step or bool(trainer.should_stop)


def read_training_state(checkpoint: Path | str) -> TrainingState | None:
    """The entry of a checkpoint; None where it has none, as those of older versions. Its tensors are not read."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return TrainingState.from_json(saved.get(_KEY))


def training_behind(trainer: pl.Trainer) -> TrainingState | None:
    """Of the weights that the trainer tests: of the checkpoint they were read from, else of the trainer's own training.

    None where the checkpoint does not say, and where nothing was trained.
    """
    if trainer.ckpt_path is not None and trainer.state.fn != TrainerFn.FITTING:  # a fit only begins with its checkpoint
        return read_training_state(trainer.ckpt_path)
    state = training_state(trainer)
    return state if state.steps else None
