"""Lower bounds of the squared distances of many queries to many references, as one matrix product.

For short descriptions ``x`` of a query and ``y`` of a reference, ``||x - y||^2 - ||x||^2 = (-2 x, 1) . (y, ||y||^2)``:
written with the squared norm as one more coordinate the product *is* the bound, and no pass over the large matrix is
spent on adding norms. Its only other pass takes the minimum over groups of references, while the numbers are still in
the processor's cache; everything after looks at the minima first.

Two screens: the leading principal axes (short vectors, a true bound) and all columns (full vectors, the distance itself
up to rounding), which is the fallback where the bound prunes nothing.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lightning_modules.artifacts.projection import GROUP, NEVER, Projection, bound_slack
from lightning_modules.artifacts.references import QueryBlock, References

_QUERIES, _REFERENCES = 512, 2048  # block of the product whose result stays in the cache: 4 MB
_COLUMNS = 4096  # columns of a full product at a time: bounds its rounding error and its buffer


class Screen(Protocol):
    """Bounds of a block of queries.

    Attributes:
        offset: ``(n,)`` float64. A reference whose squared distance is at most ``d`` has a value of at most
            ``d + offset``; anything above is proved to be farther.
    """

    offset: Tensor

    def fill(self, start: int, values: Tensor, minima: Tensor) -> None:
        """Compute the values of references ``start ...``.

        Args:
            start: First reference, a multiple of GROUP.
            values: ``(n, w)`` float32, contiguous, ``w`` a multiple of GROUP; filled. Places beyond the last reference
                get NEVER.
            minima: ``(n, w / GROUP)`` float32; filled with the minimum of each group.
        """
        ...


def offset(block: QueryBlock, squared_norm: Tensor, radius: float, terms: int, columns: int) -> Tensor:
    """What to add to a squared distance to get the largest value its screen may give it, ``(n,)`` float64."""
    slack = bound_slack(terms, columns) * (block.norm + radius).square()
    # Float64 roundings of the exact distance, of what the references share and of their difference.
    slack += 2.0**-44 * (block.own + block.remainder)
    return slack - block.remainder - squared_norm


class LeadingScreen:
    """Bounds from the leading axes of the projection."""

    def __init__(self, block: QueryBlock, projection: Projection, columns: int) -> None:
        assert block.leading is not None
        description = block.leading
        self._references = projection.leading
        self._queries = torch.cat([description * -2, torch.ones_like(description[:, :1])], 1)
        self.squared_norm = description.double().square().sum(1)
        self.offset = offset(block, self.squared_norm, projection.radius, projection.leading.shape[1], columns)

    def fill(self, start: int, values: Tensor, minima: Tensor) -> None:
        """See Screen."""
        count, width = values.shape
        tile = self._references[start : start + width].to(values.device)
        for first in range(0, width, _REFERENCES):
            last = min(first + _REFERENCES, width)
            part = tile[first:last].T
            for top in range(0, count, _QUERIES):
                bottom = min(top + _QUERIES, count)
                out = values[top:bottom, first:last]
                torch.mm(self._queries[top:bottom], part, out=out)
                groups = out.view(bottom - top, -1, GROUP)
                torch.amin(groups, 2, out=minima[top:bottom, first // GROUP : last // GROUP])


class FullScreen:
    """Distances from all columns, in float32: the plain product."""

    def __init__(self, block: QueryBlock, references: References, width: int) -> None:
        device = block.sums.device
        multiplicity = references.columns.multiplicity.to(device, torch.float64)
        self._centre = references.centre.to(device, torch.float32)
        self._references = references
        if block.centres is None:  # integers, exact in float32
            self._queries = (block.sums - (multiplicity * references.centre.to(device)).float()).mul_(-2)
        else:
            centred = block.centres - references.centre.to(device)
            self._queries = centred.mul_(multiplicity).mul_(-2).float()
        count = references.columns.count
        blocks = -(-count // _COLUMNS)
        self._buffer = torch.empty(width, min(count, _COLUMNS), device=device)
        self._partial: Tensor | None = None
        terms = min(count, _COLUMNS) + blocks + 1
        self.offset = offset(block, block.norm.square(), references.radius, terms, count)

    def fill(self, start: int, values: Tensor, minima: Tensor) -> None:
        """See Screen."""
        references, width = self._references, values.shape[1]
        points = references.points[start : start + width]
        if len(points) < width:
            self._buffer[len(points) :] = 0
        norms = torch.full((width,), NEVER, device=values.device)
        norms[: len(points)] = references.squares[start : start + width, 1].to(values.device, torch.float32)
        for first in range(0, points.shape[1], _COLUMNS):
            last = min(first + _COLUMNS, points.shape[1])
            tile = self._buffer[:width, : last - first]
            tile[: len(points)].copy_(points[:, first:last]).sub_(self._centre[first:last])
            if first == 0:
                torch.addmm(norms, self._queries[:, first:last], tile.T, out=values)
            else:
                if self._partial is None or self._partial.shape != values.shape:
                    self._partial = torch.empty_like(values)
                values += torch.mm(self._queries[:, first:last], tile.T, out=self._partial)
        torch.amin(values.view(len(values), -1, GROUP), 2, out=minima)
