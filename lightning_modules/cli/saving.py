"""What a training keeps while it runs: checkpoints that are whole or absent, and one log over all of its parts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only

from lightning_modules.common.files import atomic_file, remove_partials

LOG_FOLDER, LOG_FILE = "logs", "metrics.csv"


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that take the place of the last one when they are whole and on the disk.

    Lightning's own writer copies a temporary file to its place, where the copy can end half way, and holds the whole
    checkpoint in memory once more.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write one, straight to a file beside its place."""
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        with atomic_file(Path(path), durable=True) as partial, partial.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # what the system said, before torch put it in its words
                    raise error.__context__ from None
                raise


def save_atomically(trainer: pl.Trainer) -> None:
    """Let every strategy that hands whole checkpoints to a plain writer use `AtomicCheckpoints`.

    Those that write shards of their own (DeepSpeed, sharded FSDP), to a TPU, or by a writer that a config names keep
    theirs.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpoints()


def clear_partials(run_dir: Path) -> None:
    """Remove checkpoints that a killed process left half written."""
    folder = run_dir / "checkpoints"
    if folder.is_dir():
        remove_partials(folder)


def logged_steps(checkpoint: dict[str, Any]) -> int:
    """How many steps of a training the log has rows of where its checkpoint was written; rows count from 0."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.state_dict", {})
    return int(loop.get("_batches_that_stepped", checkpoint.get("global_step", 0)))


class ContinuedCSVLogger(CSVLogger):
    """Lightning's CSV log, which keeps the rows of a training's earlier part.

    Args:
        run_dir: Folder of the run; the file is `logs/metrics.csv` in it.
        from_step: Step that the training goes on from: earlier rows stay, rows of steps that are done again do not. 0
            for a new log.
    """

    def __init__(self, run_dir: Path, from_step: int = 0) -> None:
        super().__init__(run_dir, name="", version=LOG_FOLDER)
        self.from_step = from_step

    @property
    def experiment(self) -> Any:
        """Lightning's writer, made on the first process when it is first asked for."""
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._experiment = _ContinuedWriter(self.log_dir, self.from_step)
        return super().experiment


class _ContinuedWriter(ExperimentWriter):
    def __init__(self, log_dir: str, from_step: int) -> None:
        self.from_step = from_step
        self.kept_columns: list[str] = []
        super().__init__(log_dir)
        self.metrics_keys = self.kept_columns

    def _check_log_dir_exists(self) -> None:
        """Lightning removes the file here."""
        file = Path(self.log_dir) / LOG_FILE
        if not file.is_file():
            return
        columns, rows = _read_rows(file)
        rows = [row for row in rows if (row.get("step") or "").isdigit() and int(row["step"]) < self.from_step]
        if not rows:
            file.unlink()
            return
        _write_rows(file, columns, rows)
        self.kept_columns = columns

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Add columns; Lightning empties the file first, and a kill then loses the log."""
        file = Path(self.log_dir) / LOG_FILE
        _write_rows(file, fieldnames, _read_rows(file)[1])


def _write_rows(file: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    with atomic_file(file) as partial, partial.open("w", newline="", encoding="utf-8") as written:
        writer = csv.DictWriter(written, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)


def _read_rows(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a log; a killed process may have left half a row, the last one."""
    with file.open(newline="", encoding="utf-8", errors="replace") as content:
        reader = csv.DictReader(line for line in content if line.endswith("\n"))
        return list(reader.fieldnames or ()), list(reader)
