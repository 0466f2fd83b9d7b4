"""Gathering what each process holds: every process must call these functions, and every one gets the whole."""

from __future__ import annotations

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


def gather_tensors(mine: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, on the device of `mine`; their numbers may differ."""
    return cat(gather_objects(mine.cpu())).to(mine.device)
