"""Per-image rows of an evaluation, gathered from all processes in the order of the split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from torch import distributed


def gather_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all processes, sorted by ``index``; every process must call it.

    Raises:
        RuntimeError: An image was evaluated twice.
    """
    if distributed.is_available() and distributed.is_initialized():
        shares: list[list[dict[str, Any]]] = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(shares, rows)
        rows = [row for share in shares for row in share]
    rows = sorted(rows, key=lambda row: row["index"])
    if len({row["index"] for row in rows}) != len(rows):
        raise RuntimeError("an image was evaluated by two processes; use the data module's own samplers")
    return rows


def gather_by_index(mine: dict[int, Any], merge: Callable[..., None] = dict.update) -> dict[int, Any]:
    """The dicts of all processes put together by `merge(whole, share)`; every process must call it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return mine
    shares: list[dict[int, Any]] = [{} for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(shares, mine)
    whole: dict[int, Any] = {}
    for share in shares:
        merge(whole, share)
    return whole


def skipped_rows(trainer: pl.Trainer, answer: str) -> list[dict[str, Any]]:
    """Rows of the images that the datamodule of a `predict` could not use.

    Args:
        trainer: Its datamodule names them in `skipped`.
        answer: Column that is null for them.
    """
    skipped = getattr(getattr(trainer, "datamodule", None), "skipped", [])
    return [{"index": item["index"], "file": item["path"], answer: None, "reason": item["reason"]} for item in skipped]
