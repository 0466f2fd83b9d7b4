"""Neighbouring references side by side: cells whose boxes exclude most references of a query at once.

The references are split in two halves along the axis on which they spread most, and the halves again, until a cell
holds few enough. Principal axes suit this: the first few carry most of the spread, so that boxes over a few axes are
tight. The squared distance of a query to a cell's box is a lower bound for every reference in the cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.artifacts.sieve import GROUP

CELL = 256
"""Most references in a cell: enough for an efficient product, few enough for small boxes."""

SPLIT_AXES = 16
"""Leading axes that cells are split along and boxed in."""


@dataclass(frozen=True)
class Cells:
    """References in the order of their cells.

    Attributes:
        order: ``(N,)`` int64, index of the reference at each place.
        start: ``(cells + 1,)`` int64, first place of each cell, a multiple of GROUP, and N rounded up to one.
        low, high: ``(cells, b)`` float32, box of each cell over the split axes and the residual.
    """

    order: Tensor
    start: Tensor
    low: Tensor
    high: Tensor

    def __len__(self) -> int:
        return len(self.start) - 1

    def bounds(self, description: Tensor, leading_axes: int) -> Tensor:
        """Squared distances to the boxes.

        Args:
            description: ``(n, L + 1)`` float32, leading description of queries (see ``projection.py``).
            leading_axes: L.

        Returns:
            ``(n, cells)`` float32.
        """
        boxed = boxed_axes(description, leading_axes)
        low, high = self.low.to(description.device), self.high.to(description.device)
        total = description.new_zeros(len(description), len(self))
        below, above = torch.empty_like(total), torch.empty_like(total)
        for axis in range(boxed.shape[1]):
            value = boxed[:, axis, None]
            torch.sub(low[:, axis], value, out=below)
            torch.sub(value, high[:, axis], out=above)
            outside = torch.maximum(below, above, out=below).clamp_(min=0)
            total.addcmul_(outside, outside)
        return total


def boxed_axes(description: Tensor, leading_axes: int) -> Tensor:
    """The coordinates that boxes are made of: the split axes and the residual."""
    split = min(SPLIT_AXES, leading_axes)
    return torch.cat([description[:, :split], description[:, leading_axes : leading_axes + 1]], 1)


def divide(description: Tensor, leading_axes: int) -> Cells:
    """Divide references into cells.

    Args:
        description: ``(N, L + 1)`` float32.
        leading_axes: L.
    """
    boxed = boxed_axes(description, leading_axes)
    finished, waiting = [], [torch.arange(len(boxed))]
    while waiting:
        members = waiting.pop()
        if len(members) <= CELL:
            finished.append(members)
            continue
        values = boxed[members, :-1]
        spread = values[:, int(values.var(0).argmax())]
        ordered = members[torch.argsort(spread, stable=True)]
        half = max(GROUP, (len(members) // 2 + GROUP // 2) // GROUP * GROUP)
        waiting += [ordered[half:], ordered[:half]]
    # Only the last cell may hold a number that is no multiple of GROUP: every other is cut off at one.
    sizes = torch.tensor([0, *(-(-len(members) // GROUP) * GROUP for members in finished)])
    low = torch.stack([boxed[members].amin(0) for members in finished])
    high = torch.stack([boxed[members].amax(0) for members in finished])
    return Cells(torch.cat(finished), torch.cumsum(sizes, 0), low, high)
