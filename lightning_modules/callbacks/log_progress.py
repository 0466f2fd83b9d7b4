"""Progress in a log: a line now and then, where a bar would leave thousands."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_modules.common.progress import DELAY, INTERVAL, Progress, duration


class LogProgress(Callback):
    """Lines on standard error: of a training every `INTERVAL` seconds and of a test likewise.

    A line of a training has the epoch, the numbers that a progress bar would show, and the time that is left.
    """

    def __init__(self) -> None:
        self._began = self._next = 0.0
        self._first = 0  # batches that this training had done when it began or went on
        self._tested: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count."""
        self._began = time.monotonic()
        self._next = self._began + DELAY
        self._first = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """A line where it is time for one."""
        if trainer.is_global_zero and time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            sys.stderr.write(self._line(trainer) + "\n")
            sys.stderr.flush()

    def _line(self, trainer: pl.Trainer) -> str:
        place, batches = trainer.fit_loop.batch_idx + 1, trainer.num_training_batches
        where = f"epoch {trainer.current_epoch + 1:,}"
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            where += f" of {trainer.max_epochs:,}"
        where += f", batch {place:,}" + (f" of {int(batches):,}" if batches != float("inf") else "")
        total, done = trainer.estimated_stepping_batches, trainer.global_step - self._first
        left = total - trainer.global_step
        if done > 0 and 0 < left < float("inf"):
            where += f", {duration((time.monotonic() - self._began) / done * left)} left"
        shown = [f"{name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items() if name != "v_num"]
        return "; ".join(["training: " + where, *shown])

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count; the first process's share stands for all."""
        if trainer.is_global_zero:
            total = sum(count for count in trainer.num_test_batches if count != float("inf"))
            self._tested = Progress("testing", int(total) or None, "batch")

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Count one more."""
        if self._tested is not None:
            self._tested.update(1)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say no more."""
        self._tested = None
