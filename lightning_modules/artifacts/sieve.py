"""Finding the few values of a large matrix that do not exceed a threshold."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_modules.artifacts.pairs import Pairs, flat_nonzero

GROUP = 32
"""Values reduced to one minimum before anything is compared: comparing every value costs three times as much."""


def group_minima(values: Tensor) -> Tensor:
    """Minima over groups of columns: ``(r, w)`` to ``(r, w / GROUP)``."""
    return values.view(len(values), -1, GROUP).amin(2)


def sieve(values: Tensor, minima: Tensor, threshold: Tensor, most: int) -> Iterator[Pairs]:
    """Pairs (row, column) whose value is at most the row's threshold.

    Args:
        values: ``(r, w)`` float32, contiguous, ``w`` a multiple of GROUP.
        minima: ``(r, w / GROUP)``, see :func:`group_minima`.
        threshold: ``(r,)`` float32.
        most: Values to look at at a time.

    Yields:
        Pairs with row as ``query`` and column as ``reference``.
    """
    per_row = minima.shape[1]
    groups = flat_nonzero(minima <= threshold[:, None])
    for piece in torch.split(groups, max(1, most // GROUP)):
        row = torch.div(piece, per_row, rounding_mode="floor")
        candidates = values.view(-1, GROUP).index_select(0, piece)
        found = flat_nonzero(candidates <= threshold.index_select(0, row)[:, None])
        at = torch.div(found, GROUP, rounding_mode="floor")
        column = (piece - row * per_row).mul_(GROUP).index_select(0, at).add_(found % GROUP)
        yield Pairs(row.index_select(0, at), column, candidates.view(-1).index_select(0, found))
