"""PredictionRows: what `predict` says of each image, as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_modules.callbacks.rows import gather_rows, rows_of, skipped_rows
from lightning_modules.reporting.run_files import write_jsonl


class PredictionRows(Callback):
    """Writes one row an image, in the order of the files, when all images are done.

    An image that could not be used has the row `{"file", "predicted": null, "reason"}`.

    Args:
        out: The file to write.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows: list[dict[str, Any]] = []

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's rows."""
        self.rows.extend(rows_of(outputs, pl_module.sources))  # type: ignore[arg-type]

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather from all processes; the first one writes."""
        rows = gather_rows(self.rows)
        rows += skipped_rows(trainer, "predicted")
        rows.sort(key=lambda row: row["index"])
        if trainer.is_global_zero:
            write_jsonl(self.out, ({key: row[key] for key in row if key != "index"} for row in rows))
        self.rows = []
