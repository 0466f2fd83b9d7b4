"""What a search needs to know of the references, and of a block of queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from lightning_modules.artifacts.search.candidates import GROUP
from lightning_modules.artifacts.search.pca_bounds import (
    CELL,
    NEVER,
    Cells,
    Projection,
    describe,
    divide,
    fit_axes,
    project,
)
from lightning_modules.artifacts.search.shared_coordinates import SharedCoordinates

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
    columns: SharedCoordinates
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
    """Prepare a block of queries ``(n, D)`` float32 for the comparison with references.

    ``grid`` is True if queries and references are 8-bit points. With ``describe_them``, the descriptions that bounds
    need are computed, if there is a projection.
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
    sums, own, remainder = joined["sums"], joined["own"], joined["remainder"]
    return QueryBlock(grid, sums, centres, own, remainder, squares.sqrt(), leading, finer)


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


AXES = 256
"""Principal axes kept, unless told otherwise."""

# Axes of the first bound. On 60,000 images more cost more in the product than they save in pairs.
_LEADING = 128
_SAMPLE = 8192  # references that the axes are fitted to
_FEW = 512  # below this many references the plain product takes no time worth saving

Allocate = Callable[[str, tuple[int, ...], torch.dtype], Tensor]


def describe_references(
    points: Tensor, columns: SharedCoordinates, axes: int | None, memory_limit: int, allocate: Allocate
) -> tuple[References, dict[str, Tensor]]:
    """The references of ``(N, C)`` stored columns, and the computed tensors by name (see :func:`assemble`).

    ``axes`` principal axes are kept: 0 for none, None for AXES where the manifold is large enough to profit. What is
    computed is written to the tensors that ``allocate`` gives for a name, shape and dtype; beside them, it works with
    ``memory_limit`` bytes.
    """
    total, count = points.shape
    if axes is None:
        axes = AXES if total >= _FEW and count > _LEADING // 2 else 0
    axes = min(axes, count)
    rows = max(1, min(4096, memory_limit // (64 * count + 48 * axes)))
    mean = torch.zeros(count, dtype=torch.float64)
    for start in range(0, total, rows):
        mean += points[start : start + rows].sum(0, dtype=torch.float64) / total
    # Exact in float32, and whole levels for 8-bit points, so that centring never rounds.
    centre = mean.round() if points.dtype == torch.uint8 else mean.float().double()
    multiplicity = columns.multiplicity.double()
    tensors = {"centre": allocate("centre", (count,), torch.float64)}
    tensors["centre"].copy_(centre)
    tensors["squares"] = allocate("squares", (total, 2), torch.float64)
    for start in range(0, total, rows):
        part = slice(start, min(start + rows, total))
        values = points[part].double()
        tensors["squares"][part, 0] = values.square() @ multiplicity
        tensors["squares"][part, 1] = values.sub_(centre).square() @ multiplicity
    if axes:
        sample = points[:: -(-total // _SAMPLE)]
        tensors["axes"] = allocate("axes", (count, axes), torch.float32)
        tensors["axes"].copy_(fit_axes(sample, centre, multiplicity.sqrt(), axes, rows))
        _describe_all(points, centre, multiplicity.sqrt(), tensors, rows, allocate)
    return assemble(points, columns, tensors), tensors


def _describe_all(
    points: Tensor, centre: Tensor, weight: Tensor, tensors: dict[str, Tensor], rows: int, allocate: Allocate
) -> None:
    """Describe all references, and put the descriptions in the order of their cells."""
    total, axes = len(points), tensors["axes"].shape[1]
    leading = min(_LEADING, axes)
    short = torch.empty(total, leading + 1)
    finer = torch.empty(total, axes - leading + 2)
    for start in range(0, total, rows):
        some = points[start : start + rows]

        def centred(which: slice, columns: slice, some: Tensor = some) -> Tensor:
            return some[which, columns].double().sub_(centre[columns]).mul_(weight[columns])

        found = project(len(some), points.shape[1], centred, tensors["axes"], points.device)
        parts = describe(*found, leading)
        short[start : start + rows], finer[start : start + rows] = parts[0].float(), parts[1].float()
    cells = divide(short, leading)
    for name in ("order", "start", "low", "high"):
        value = getattr(cells, name)
        tensors[name] = allocate(name, tuple(value.shape), value.dtype)
        tensors[name].copy_(value)
    tensors["leading"] = allocate("leading", (-(-total // GROUP) * GROUP, leading + 2), torch.float32)
    tensors["leading"][total:] = 0
    tensors["leading"][total:, -1] = NEVER
    tensors["finer"] = allocate("finer", (total, axes - leading + 2), torch.float32)
    for start in range(0, total, rows):
        part = slice(start, start + rows)
        ordered = short[cells.order[part]]
        tensors["leading"][:total][part, :-1] = ordered
        tensors["leading"][:total][part, -1] = ordered.double().square().sum(1).float()
        tensors["finer"][part] = finer[cells.order[part]]


def assemble(points: Tensor, columns: SharedCoordinates, tensors: dict[str, Tensor]) -> References:
    """References of stored points and the tensors that :func:`describe_references` computed."""
    squares = tensors["squares"]
    reach, radius = (sqrt(float(largest)) for largest in squares.amax(0))
    projection = None
    if "axes" in tensors:
        cells = Cells(tensors["order"], tensors["start"], tensors["low"], tensors["high"])
        projection = Projection(tensors["axes"], tensors["centre"], cells, tensors["leading"], tensors["finer"], radius)
    return References(points, columns, tensors["centre"], squares, reach, radius, projection)


DEFAULT_MEMORY_LIMIT = 512 * 2**20
"""Bytes a search allocates at most, unless told otherwise."""

_QUERIES, _REFERENCES = 2048, 2048  # larger blocks are not faster


@dataclass(frozen=True)
class SearchMemory:
    """Sizes of a search's blocks.

    Attributes:
        queries: Queries prepared at a time.
        references: References per tile of the plain product, a multiple of GROUP.
        pairs: Pairs waiting for the finer bound.
        buffer: Bytes for gathering points.
    """

    queries: int
    references: int
    pairs: int
    buffer: int

    @classmethod
    def plan(cls, references: References, limit: int, queries: int, grid: bool) -> SearchMemory:
        """Divide the memory: half for queries, a quarter for bounds, an eighth each for pairs and gathered points.

        ``limit`` is in bytes, beside the ``queries`` that came in and the result; 8-bit points (``grid``) take less.

        Raises:
            ValueError: The limit does not allow a single query at a time.
        """
        columns, dimensions = references.columns.count, references.columns.dimensions
        projection = references.projection
        described = 0 if projection is None else projection.axes.shape[1]
        cells = 0 if projection is None else len(projection.cells)
        # Copies of a query: itself (D), its sums while they are joined, padded, and as factor of the product, centres
        # if it is not 8-bit (C), descriptions, and bounds of cells with what is computed on the way.
        per_query = 4 * dimensions + (20 if grid else 44) * columns + 48 * described + 32 * cells + 512
        once = 128 * dimensions  # a single query while it is prepared
        # A value, the second buffer of a product in several pieces or a mask; the tile itself in float32.
        per_pair, per_reference = 13, 4 * min(columns, 4096) + 4 * described + 32
        pairs = max(4 * GROUP * (per_reference + per_pair), 4 * CELL * per_pair, 8 * 160 * GROUP)
        needed = max(2 * (per_query + once), pairs)
        if limit < needed:
            raise ValueError(
                f"A search of points with {dimensions} dimensions needs a memory limit of at least {needed} bytes, "
                f"found {limit}; raise memory_limit (the default is {DEFAULT_MEMORY_LIMIT})."
            )
        quarter = limit // 4
        block = min(_QUERIES, (2 * quarter - once) // per_query, quarter // (CELL * per_pair), max(queries, 1))
        block = min(block, (quarter // GROUP - per_reference) // per_pair)
        tile = min(_REFERENCES, quarter // (per_pair * block + per_reference))
        # A waiting pair holds 20 bytes, and as much again several times over while it is sorted and compared.
        return cls(block, tile // GROUP * GROUP, quarter // 2 // 160, quarter // 2)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products in true float32 inside, whatever the trainer allows outside: the bounds count on its rounding."""
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(allowed)
