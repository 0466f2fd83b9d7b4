"""Gathering what each process holds: every process must call these functions, and every one gets the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, cat, distributed

_T = TypeVar("_T")


def gather_objects(mine: _T) -> list[_T]:
    """What each process passes, in the order of their ranks; a list of one without a process group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    shares: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shares, mine)
    return shares


def gather_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of all processes, sorted by `index`."""
    rows = sorted((row for share in gather_objects(rows) for row in share), key=lambda row: int(row["index"]))
    if len({row["index"] for row in rows}) != len(rows):
        raise RuntimeError("an image was evaluated by two processes; use the data module's own samplers")
    return rows


def gather_by_index(mine: dict[int, Any], merge: Callable[..., None] = dict.update) -> dict[int, Any]:
    """The dicts of all processes put together by `merge(whole, share)`."""
    whole: dict[int, Any] = {}
    for share in gather_objects(mine):
        merge(whole, share)
    return whole


def gather_tensors(mine: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, on the device of `mine`; their numbers may differ."""
    return cat(gather_objects(mine.cpu())).to(mine.device)
