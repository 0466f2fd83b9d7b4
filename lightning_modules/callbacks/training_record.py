"""How far the training behind the weights has come, what it cost: kept in checkpoints, told by whoever uses them."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

from lightning_modules.common.distributed import gather_objects
from lightning_modules.reporting.findings import TrainingState
from lightning_modules.reporting.training_cost import TrainingCost, together

_KEY, _COST = "training", "training_cost"


class TrainingRecord(Callback):
    """Writes into every checkpoint how far the training has come, how far it is to go, and what it has cost."""

    def __init__(self) -> None:
        self.cost: TrainingCost | None = None
        self._earlier: TrainingCost | None = None  # of the training that this one goes on with
        self._begun: tuple[float, float] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin to count: a manifold that is built and rules that are fitted belong to the training."""
        if stage == "fit":
            self.cost = self._earlier = None
            self._begun = time.monotonic(), _processor_seconds()
            if (device := trainer.strategy.root_device).type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over what the training has cost so far."""
        self.cost = self._earlier = TrainingCost.from_json(checkpoint.get(_COST))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add up what all processes have used; every one of them comes here before the checkpoint is written."""
        if self._begun is not None:
            wall, processor = self._begun
            device = trainer.strategy.root_device
            own = TrainingCost(
                wall_seconds=time.monotonic() - wall,
                processor_seconds=_processor_seconds() - processor,
                peak_bytes=_peak_bytes(),
                peak_device_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
                processes=1,
            )
            self.cost = together(gather_objects(own)).after(self._earlier)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entries `training` and `training_cost`: plain numbers."""
        checkpoint[_KEY] = training_state(trainer).to_json()
        if self.cost is not None:
            checkpoint[_COST] = self.cost.to_json()


def training_state(trainer: pl.Trainer) -> TrainingState:
    """Where the trainer's own training is."""
    return TrainingState(
        epochs=trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
        max_epochs=-1 if trainer.max_epochs is None else trainer.max_epochs,
        steps=trainer.global_step,
        max_steps=trainer.max_steps,
        stopped=bool(trainer.should_stop),
    )


def read_training_state(checkpoint: Path | str) -> TrainingState | None:
    """The entry of a checkpoint; None where it has none, as those of older versions. Its tensors are not read."""
    return TrainingState.from_json(_read(checkpoint).get(_KEY))


def training_behind(trainer: pl.Trainer) -> TrainingState | None:
    """Of the weights that the trainer tests: of the checkpoint they were read from, else of the trainer's own training.

    None where the checkpoint does not say, and where nothing was trained.
    """
    if _tests_a_checkpoint(trainer):
        return read_training_state(str(trainer.ckpt_path))
    state = training_state(trainer)
    return state if state.steps else None


def cost_behind(trainer: pl.Trainer) -> TrainingCost | None:
    """What the training of the weights that the trainer tests has cost; None where nothing says so."""
    if _tests_a_checkpoint(trainer):
        return TrainingCost.from_json(_read(str(trainer.ckpt_path)).get(_COST))
    records = (each for each in trainer.callbacks if isinstance(each, TrainingRecord))  # type: ignore[attr-defined]
    return next((record.cost for record in records), None)


def _tests_a_checkpoint(trainer: pl.Trainer) -> bool:
    """Whether the weights are a file's: a fit only begins with its checkpoint."""
    return trainer.ckpt_path is not None and trainer.state.fn != TrainerFn.FITTING


def _read(checkpoint: Path | str) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return saved


def _processor_seconds() -> float:
    """Of this process, of the children that have ended, and of those that work for it now."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ended = sum(one.ru_utime + one.ru_stime for one in used)
    return ended + sum(_seconds_of(child.pid) for child in multiprocessing.active_children())


def _seconds_of(process: int | None) -> float:
    """Processor time of a living process; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
