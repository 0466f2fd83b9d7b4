"""What a search needs to know of the references, and of a block of queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.artifacts.columns import Columns
from lightning_modules.artifacts.projection import Projection

LEVELS = 255
"""Distances between 8-bit points are measured in steps of 1/255, in which they are integers."""

GRID_TOLERANCE = 2.0**-14
"""A value counts as 8-bit if 255 times it is this close to an integer: the roundings of ``byte / 255`` in float32."""


@dataclass(frozen=True)
class References:
    """The real points.

    Attributes:
        points: ``(N, C)`` stored columns, uint8 or float32, possibly memory-mapped.
        columns: How columns stand for coordinates.
        centre: ``(C,)`` float64, near the mean; exact in float32, integers for uint8 points.
        squares: ``(N, 2)`` float64: squared norm of the point's varying coordinates, and the same about the centre.
        radius: Square root of the largest squared norm about the centre.
        projection: Short descriptions for the lower bounds; None for manifolds too small to need them.
    """

    points: Tensor
    columns: Columns
    centre: Tensor
    squares: Tensor
    radius: float
    projection: Projection | None

    def __len__(self) -> int:
        return len(self.points)

    @property
    def eight_bit(self) -> bool:
        """True if points are stored as uint8, in steps of 1/255."""
        return self.points.dtype == torch.uint8

    @property
    def scale(self) -> float:
        """Length of one stored unit."""
        return 1 / LEVELS if self.eight_bit else 1.0


@dataclass(frozen=True)
class QueryBlock:
    """Queries as the search uses them, in the references' units.

    Attributes:
        on_grid: True if all queries are 8-bit points: distances are then computed in integers.
        rows: ``(n,)`` int64, position of each query in the whole call.
        sums: ``(n, C)`` float32, sums over the coordinates of each column; integers if ``on_grid``.
        centres: ``(n, C)`` float64, the sums divided by the multiplicities; None if ``on_grid``.
        own: ``(n,)`` float64, squared norm against the constant coordinates; exact if ``on_grid``.
        remainder: ``(n,)`` float64, the part of the squared distance that all references share.
        norm: ``(n,)`` float64, norm of the weighted columns about the centre.
        leading, finer: Descriptions, see Projection; None without a projection.
    """

    on_grid: bool
    rows: Tensor
    sums: Tensor
    centres: Tensor | None
    own: Tensor
    remainder: Tensor
    norm: Tensor
    leading: Tensor | None
    finer: Tensor | None

    def __len__(self) -> int:
        return len(self.rows)


def on_grid(queries: Tensor) -> Tensor:
    """Which queries are 8-bit points: ``(n, D)`` float32 to ``(n,)`` bool."""
    levels = queries * LEVELS
    nearest = levels.round()
    inside = (nearest.amin(1) >= 0) & (nearest.amax(1) <= LEVELS)
    return inside & (levels.sub_(nearest).abs_().amax(1) <= GRID_TOLERANCE)


def prepare(queries: Tensor, rows: Tensor, references: References, grid: bool) -> QueryBlock:
    """Prepare a block of queries.

    Args:
        queries: ``(n, D)`` float32.
        rows: ``(n,)`` int64, their positions in the whole call.
        references: What they will be compared with.
        grid: True if all of them are 8-bit points and so are the references.
    """
    columns, device = references.columns, queries.device
    multiplicity = columns.multiplicity.to(device, torch.float64)
    if references.eight_bit:
        # 255 q is exact in float64 for any float32 q, so that points off the grid are not moved either.
        queries = (queries * LEVELS).round_() if grid else queries.double() * LEVELS
    sums = columns.sums(queries)
    centres = sums.double() if columns.is_identity else sums / multiplicity
    if grid:
        constant = columns.constant.to(device, torch.float32)
        own = queries.square().sum(1, dtype=torch.float64)
        fixed = (columns.column < 0).to(device)
        if bool(fixed.any()):
            value = torch.where(fixed, constant, 0)
            own += value.square().sum(dtype=torch.float64) - 2 * queries.double() @ value.double()
        common = own - (centres.square() @ multiplicity)
        common.clamp_(min=0)
    else:
        common = columns.remainder(queries, centres)
        own = common
    centred = (centres - references.centre.to(device)).mul_(multiplicity.sqrt())
    leading = finer = None
    if references.projection is not None:
        leading, finer = references.projection.describe(centred)
    return QueryBlock(
        on_grid=grid,
        rows=rows,
        sums=sums.float(),
        centres=None if grid else centres,
        own=own,
        remainder=common,
        norm=centred.square().sum(1).sqrt(),
        leading=None if leading is None else leading.float(),
        finer=None if finer is None else finer.float(),
    )
