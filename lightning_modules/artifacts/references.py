"""What a search needs to know of the references, and of a block of queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.artifacts.columns import Columns
from lightning_modules.artifacts.projection import Projection

LEVELS = 255
"""Distances between 8-bit points are measured in steps of 1/255, in which they are integers."""

_PIECE = 2**18  # numbers of the queries that are prepared at a time

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
        sums: ``(n, C)`` float32, sums over the coordinates of each column; integers if ``on_grid``.
        centres: ``(n, C)`` float64, the sums divided by the multiplicities; None if ``on_grid``.
        own: ``(n,)`` float64, squared norm against the constant coordinates; exact if ``on_grid``.
        remainder: ``(n,)`` float64, the part of the squared distance that all references share.
        norm: ``(n,)`` float64, norm of the weighted columns about the centre.
        leading, finer: Descriptions, see Projection; None without a projection.
    """

    on_grid: bool
    sums: Tensor
    centres: Tensor | None
    own: Tensor
    remainder: Tensor
    norm: Tensor
    leading: Tensor | None
    finer: Tensor | None

    def __len__(self) -> int:
        return len(self.sums)


def on_grid(queries: Tensor) -> Tensor:
    """Which queries are 8-bit points: ``(n, D)`` float32 to ``(n,)`` bool."""
    found = []
    for piece in torch.split(queries, max(1, _PIECE // queries.shape[1])):
        levels = piece * LEVELS
        nearest = levels.round().clamp_(0, LEVELS)
        found.append(levels.sub_(nearest).abs_().amax(1) <= GRID_TOLERANCE)
    return torch.cat(found)


def prepare(queries: Tensor, references: References, grid: bool, describe: bool) -> QueryBlock:
    """Prepare a block of queries.

    Args:
        queries: ``(n, D)`` float32.
        references: What they will be compared with.
        grid: True if all of them are 8-bit points and so are the references.
        describe: Compute the descriptions that the bounds need, if there is a projection.
    """
    # A few rows at a time: what is computed on the way then fits the processor's cache.
    split = torch.split(queries, max(1, _PIECE // queries.shape[1]))
    pieces = [_prepare(piece, references, grid, describe) for piece in split]
    joined = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    return QueryBlock(
        on_grid=grid,
        sums=joined["sums"],
        centres=joined.get("centres"),
        own=joined["own"],
        remainder=joined["remainder"],
        norm=joined["norm"],
        leading=joined.get("leading"),
        finer=joined.get("finer"),
    )


def _prepare(queries: Tensor, references: References, grid: bool, describe: bool) -> dict[str, Tensor]:
    columns, device = references.columns, queries.device
    multiplicity = columns.multiplicity.to(device, torch.float64)
    if references.eight_bit:
        # 255 q is exact in float64 for any float32 q, so that points off the grid are not moved either.
        queries = (queries * LEVELS).round_() if grid else queries.double() * LEVELS
    sums = columns.sums(queries)
    centres = sums.double() if columns.is_identity else sums / multiplicity
    if grid:
        constant = columns.constant.to(device, torch.float64)  # 0 where not constant
        own = _sum_of_squares(queries)
        if bool(constant.any()):
            own += constant.square().sum() - 2 * (queries.double() @ constant)
        common = own - (centres.square() @ multiplicity)
        common.clamp_(min=0)
    else:
        common = columns.remainder(queries, centres)
        own = common
    centred = (centres - references.centre.to(device)).mul_(multiplicity.sqrt())
    parts = {"sums": sums.float(), "own": own, "remainder": common, "norm": centred.square().sum(1).sqrt()}
    if not grid:
        parts["centres"] = centres
    if describe and references.projection is not None:
        leading, finer = references.projection.describe(centred)
        parts |= {"leading": leading.float(), "finer": finer.float()}
    return parts


def _sum_of_squares(levels: Tensor) -> Tensor:
    """Exact squared norms of 8-bit points: ``(n, D)`` float32 integers to ``(n,)`` float64."""
    squares = levels.square()
    whole = squares.shape[1] // 256 * 256  # 256 squares of bytes still sum exactly in float32
    first = squares[:, :whole].reshape(len(squares), -1, 256).sum(2).sum(1, dtype=torch.float64)
    return first + squares[:, whole:].sum(1)
