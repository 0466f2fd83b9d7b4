"""What a search needs to know of the references, and of a block of queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.artifacts.columns import Columns
from lightning_modules.artifacts.projection import Projection, describe, project

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
        reach: Square root of the largest squared norm of the varying coordinates.
        radius: The same about the centre.
        projection: Short descriptions for the lower bounds; None for manifolds too small to need them.
    """

    points: Tensor
    columns: Columns
    centre: Tensor
    squares: Tensor
    reach: float
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


def prepare(queries: Tensor, references: References, grid: bool, describe_them: bool) -> QueryBlock:
    """Prepare a block of queries.

    Args:
        queries: ``(n, D)`` float32.
        references: What they will be compared with.
        grid: True if all of them are 8-bit points and so are the references.
        describe_them: Compute the descriptions that the bounds need, if there is a projection.
    """
    # A few rows at a time: what is computed on the way then fits the processor's cache.
    split = torch.split(queries, max(1, _PIECE // queries.shape[1]))
    pieces = [_prepare(piece, references, grid) for piece in split]
    joined = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    centres = joined.get("centres")
    multiplicity = references.columns.multiplicity.to(queries.device, torch.float64)
    weight, centre = multiplicity.sqrt(), references.centre.to(queries.device)

    def centred(rows: slice, columns: slice) -> Tensor:
        if centres is None:
            means = joined["sums"][rows, columns].double().div_(multiplicity[columns])
        else:
            means = centres[rows, columns].clone()
        return means.sub_(centre[columns]).mul_(weight[columns])

    projection = references.projection if describe_them else None
    axes = None if projection is None else projection.axes
    projected, squares = project(len(queries), references.columns.count, centred, axes, queries.device)
    leading, finer = None, None
    if projection is not None:
        leading, finer = (part.float() for part in describe(projected, squares, projection.leading_axes))
    return QueryBlock(
        on_grid=grid,
        sums=joined["sums"],
        centres=centres,
        own=joined["own"],
        remainder=joined["remainder"],
        norm=squares.sqrt(),
        leading=leading,
        finer=finer,
    )


def _prepare(queries: Tensor, references: References, grid: bool) -> dict[str, Tensor]:
    columns, device = references.columns, queries.device
    if references.eight_bit:
        # 255 q is exact in float64 for any float32 q, so that points off the grid are not moved either.
        queries = (queries * LEVELS).round_() if grid else queries.double() * LEVELS
    sums = columns.sums(queries)
    if grid:
        constant = columns.constant.to(device, torch.float64)  # 0 where not constant
        own = _sum_of_squares(queries)
        if bool(constant.any()):
            own += constant.square().sum() - 2 * (queries.double() @ constant)
        if columns.is_identity:  # nothing is constant or merged, so that nothing is shared
            return {"sums": sums, "own": own, "remainder": torch.zeros_like(own)}
        shared = own - sums.double().square_() @ (1 / columns.multiplicity.to(device, torch.float64))
        return {"sums": sums, "own": own, "remainder": shared.clamp_(min=0)}
    centres = sums.double() if columns.is_identity else sums / columns.multiplicity.to(device, torch.float64)
    shared = columns.remainder(queries, centres)
    return {"sums": sums.float(), "own": shared, "remainder": shared, "centres": centres}


def _sum_of_squares(levels: Tensor) -> Tensor:
    """Exact squared norms of 8-bit points: ``(n, D)`` float32 integers to ``(n,)`` float64."""
    squares = levels.square()
    whole = squares.shape[1] // 256 * 256  # 256 squares of bytes still sum exactly in float32
    first = squares[:, :whole].reshape(len(squares), -1, 256).sum(2).sum(1, dtype=torch.float64)
    return first + squares[:, whole:].sum(1)
