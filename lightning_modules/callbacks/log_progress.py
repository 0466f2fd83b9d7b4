"""Progress in a log: a line now and then, where a bar would leave thousands."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_modules.common.progress import DELAY, INTERVAL, Progress, duration


class LogProgress(Callback):
    """Lines on standard error, every `INTERVAL` seconds of a training, a test or a prediction.

    A line of a training has the epoch, the numbers that a progress bar would show, and the time that is left.
    """

    def __init__(self) -> None:
        self._began = self._next = 0.0
        self._first = 0  # epochs that were done when the training went on
        self._evaluated: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count."""
        self._began = time.monotonic()
        self._next = self._began + DELAY
        self._first = trainer.current_epoch

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """A line where it is time for one."""
        if trainer.is_global_zero and time.monotonic() >= self._next:
            self._next = time.monotonic() + INTERVAL
            sys.stderr.write(self._line(trainer) + "\n")
            sys.stderr.flush()

    def _line(self, trainer: pl.Trainer) -> str:
        place, batches = trainer.fit_loop.batch_idx + 1, trainer.num_training_batches
        epoch, epochs = trainer.current_epoch, trainer.max_epochs
        known = epochs is not None and epochs > 0
        where = f"epoch {epoch + 1:,}" + (f" of {epochs:,}" if known else "") + f", batch {place:,}"
        if batches != float("inf"):
            where += f" of {int(batches):,}"
            done = (epoch - self._first) * int(batches) + place
            left = ((epochs or 0) - epoch) * int(batches) - place if known else 0
            if left > 0:
                where += f", {duration((time.monotonic() - self._began) / done * left)} left"
        shown = [f"{name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items() if name != "v_num"]
        return "; ".join(["training: " + where, *shown])

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count; the first process's share stands for all."""
        self._begin("testing", trainer, trainer.num_test_batches)

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Count one more."""
        self._advance()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say no more."""
        self._evaluated = None

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count, likewise."""
        self._begin("predicting", trainer, trainer.num_predict_batches)

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Count one more."""
        self._advance()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say no more."""
        self._evaluated = None

    def _begin(self, what: str, trainer: pl.Trainer, batches: Sequence[int | float]) -> None:
        if trainer.is_global_zero:
            total = sum(count for count in batches if count != float("inf"))
            self._evaluated = Progress(what, int(total) or None, "batch")

    def _advance(self) -> None:
        if self._evaluated is not None:
            self._evaluated.update(1)
