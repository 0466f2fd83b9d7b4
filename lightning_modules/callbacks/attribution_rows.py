"""PredictionRows: what `predict` says of each image, as JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lightning_modules.common.distributed import gather_rows
from lightning_modules.reporting.run_files import write_jsonl


class PredictionRows(Callback):
    """Writes one row an image into the file `out`, in the order of the files, when all images are done.

    An image that could not be used has the row `{"file", "predicted": null, "reason"}`.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows: list[dict[str, Any]] = []

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *position: Any, **named: Any
    ) -> None:
        """Keep the batch's rows."""
        self.rows.extend(rows_of(outputs, pl_module.sources))  # type: ignore[arg-type]

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather from all processes; the first one writes."""
        rows = gather_rows(self.rows) + skipped_rows(trainer, "predicted")
        rows.sort(key=lambda row: row["index"])
        if trainer.is_global_zero:
            write_jsonl(self.out, ({key: row[key] for key in row if key != "index"} for row in rows))
        self.rows = []


def rows_of(outputs: dict[str, Any], sources: list[str]) -> list[dict[str, Any]]:
    """Rows of one batch of an attributor's test or predict step.

    Args:
        outputs: Columns: ``index``, ``path``, ``content_id``, ``probabilities`` (N, K); ``label`` and ``distance`` (N,)
            where there are any.
        sources: Names of the K sources.

    Returns:
        One dict an image: ``index``, ``file``, ``source`` (if labelled), ``predicted``, ``probabilities`` (a dict by
        source), ``distance`` to the manifold in the embedding's units (if searched), ``content_id`` in hex.
    """
    columns = {key: value.tolist() if isinstance(value, Tensor) else value for key, value in outputs.items()}
    rows = []
    for position, probabilities in enumerate(columns["probabilities"]):
        row: dict[str, Any] = {"index": columns["index"][position], "file": columns["path"][position]}
        if "label" in columns:
            row["source"] = sources[columns["label"][position]]
        row["predicted"] = sources[max(range(len(sources)), key=probabilities.__getitem__)]
        row["probabilities"] = dict(zip(sources, probabilities, strict=True))
        if "distance" in columns:
            row["distance"] = columns["distance"][position]
        row["content_id"] = f"{columns['content_id'][position]:016x}"
        rows.append(row)
    return rows


def skipped_rows(trainer: pl.Trainer, answer: str) -> list[dict[str, Any]]:
    """Rows of the images that a `predict` could not use (`skipped` of its datamodule); the column `answer` is null."""
    skipped = getattr(getattr(trainer, "datamodule", None), "skipped", [])
    return [{"index": item["index"], "file": item["path"], answer: None, "reason": item["reason"]} for item in skipped]
