"""Storing a point without its repeated coordinates, and measuring distances without them.

Grey images stored as RGB say everything three times, and padded images have borders that never change. Coordinates that
hold the same value as another coordinate in *every* reference are stored once, and coordinates that are constant over
the references are not stored at all. Nothing is lost: points are restored bit by bit, and distances are the same. With
``c`` a stored column that stands for the ``m`` coordinates ``j`` of a group, and ``S`` the sum of the query over them,

    sum_j (q_j - r_c)^2  =  m (r_c - S/m)^2  +  sum_j (q_j - S/m)^2,

where the last term does not depend on the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

MAX_GROUP = 4
"""Most coordinates that share a column: 64 products of (4 x 255) x 255 still sum exactly in float32 (below 2^24)."""

WORTHWHILE = 0.75
"""Columns are merged only if that leaves at most this share of the coordinates."""


@dataclass(frozen=True)
class SharedCoordinates:
    """Which stored column holds which coordinate.

    Attributes:
        column: ``(D,)`` int64, the column that holds coordinate j, or -1 if the coordinate is constant.
        constant: ``(D,)``, dtype of the points: the value of a constant coordinate, 0 elsewhere.
        multiplicity: ``(C,)`` int64, number of coordinates that a column stands for, descending.
    """

    column: Tensor
    constant: Tensor
    multiplicity: Tensor = field(init=False)
    members: tuple[Tensor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        stored = self.column[self.column >= 0]
        multiplicity = torch.bincount(stored, minlength=1)
        if bool((multiplicity < 1).any()) and stored.numel():
            raise ValueError("Column numbers have gaps; the manifold's description of its columns is damaged.")
        if bool((multiplicity[1:] > multiplicity[:-1]).any()):
            raise ValueError("Columns are not ordered by their multiplicity; the manifold's description is damaged.")
        object.__setattr__(self, "multiplicity", multiplicity if stored.numel() else multiplicity[:0])
        # members[i]: the i-th coordinate of every column that has more than i of them.
        order = torch.argsort(self.column, stable=True)[int((self.column < 0).sum()) :]
        first = torch.cumsum(self.multiplicity, 0) - self.multiplicity
        deepest = int(self.multiplicity.max()) if stored.numel() else 0
        members = tuple(order[first[self.multiplicity > i] + i] for i in range(deepest))
        object.__setattr__(self, "members", members)

    @classmethod
    def identity(cls, dimensions: int, dtype: torch.dtype) -> SharedCoordinates:
        """Every coordinate in a column of its own."""
        return cls(torch.arange(dimensions), torch.zeros(dimensions, dtype=dtype))

    @property
    def count(self) -> int:
        """Number of stored columns, C."""
        return len(self.multiplicity)

    @property
    def dimensions(self) -> int:
        """Number of coordinates, D."""
        return len(self.column)

    @property
    def is_identity(self) -> bool:
        """True if nothing is merged."""
        return self.count == self.dimensions

    def compress(self, points: Tensor) -> Tensor:
        """``(n, D)`` points to the ``(n, C)`` columns that are stored."""
        return points if self.is_identity else points[:, self.members[0]] if self.members else points[:, :0]

    def restore(self, stored: Tensor) -> Tensor:
        """``(n, C)`` stored columns to ``(n, D)`` points, bit by bit."""
        if self.is_identity:
            return stored
        points = self.constant.to(stored.device).repeat(len(stored), 1)
        kept = (self.column >= 0).nonzero()[:, 0]
        points[:, kept.to(stored.device)] = stored.index_select(1, self.column[kept].to(stored.device))
        return points

    def sums(self, queries: Tensor) -> Tensor:
        """``(n, D)`` queries to ``(n, C)`` sums over the coordinates of each column, in the queries' dtype."""
        if self.is_identity:
            return queries
        total = queries.new_empty(len(queries), self.count)
        for i, coordinates in enumerate(self.members):
            values = queries.index_select(1, coordinates.to(queries.device))
            total[:, : len(coordinates)] = values if i == 0 else total[:, : len(coordinates)] + values
        return total

    def remainder(self, queries: Tensor, centres: Tensor) -> Tensor:
        """What the squared distances to all references have in common, ``(n,)``: of queries and their column means."""
        common = queries.new_zeros(len(queries), dtype=torch.float64)
        if self.is_identity:
            return common
        for coordinates in self.members:
            difference = queries.index_select(1, coordinates.to(queries.device)).double()
            common += difference.sub_(centres[:, : len(coordinates)]).square_().sum(1)
        fixed = (self.column < 0).nonzero()[:, 0]
        value = self.constant[fixed].to(queries.device, torch.float64)
        difference = queries.index_select(1, fixed.to(queries.device)).double()
        return common + difference.sub_(value).square_().sum(1)


def find_shared_coordinates(points: Tensor, rows: int) -> SharedCoordinates:
    """Find repeated and constant coordinates of 8-bit points ``(N, D)``, possibly memory-mapped, ``rows`` at a time.

    Returns:
        Columns that restore every one of the points exactly (checked), or the identity if merging would save little.
    """
    dimensions = points.shape[1]
    whole = SharedCoordinates.identity(dimensions, torch.uint8)
    few = points[:: max(1, len(points) // 64)][:64]
    if len(torch.unique(few, dim=1).T) > WORTHWHILE * dimensions:
        return whole
    # Two coordinates that agree everywhere agree in every weighted sum over the references. Integer weights below 2^20
    # keep the sums exact in float64 for 2^25 references.
    generator = torch.Generator().manual_seed(0)
    signature = torch.zeros(4, dimensions, dtype=torch.float64)
    low, high = points[0].clone(), points[0].clone()
    for start in range(0, len(points), rows):
        part = points[start : start + rows]
        weights = torch.randint(1, 2**20, (4, len(part)), generator=generator).double()
        signature += weights @ part.double()
        low, high = torch.minimum(low, part.amin(0)), torch.maximum(high, part.amax(0))
    constant = low == high
    _, group = torch.unique(signature, dim=1, return_inverse=True)
    column = _number(group, constant)
    columns = SharedCoordinates(column, torch.where(constant, low, torch.zeros_like(low)))
    if columns.count == 0 or columns.count > WORTHWHILE * dimensions:
        return whole
    for start in range(0, len(points), rows):
        part = points[start : start + rows]
        if not torch.equal(columns.restore(columns.compress(part)), part):
            return whole
    return columns


def _number(group: Tensor, constant: Tensor) -> Tensor:
    """Number the columns by falling multiplicity, splitting groups into at most MAX_GROUP coordinates each."""
    column = torch.full_like(group, -1)
    varying = (~constant).nonzero()[:, 0]
    order = varying[torch.argsort(group[varying], stable=True)]
    sorted_group = group[order]
    size = torch.unique_consecutive(sorted_group, return_counts=True)[1]
    first = torch.repeat_interleave(torch.cumsum(size, 0) - size, size)
    position = torch.arange(len(order)) - first
    piece = torch.unique(torch.stack([sorted_group, position // MAX_GROUP]), dim=1, return_inverse=True)[1]
    count = torch.bincount(piece, minlength=1)
    rank = torch.empty_like(count)
    rank[torch.argsort(count, descending=True, stable=True)] = torch.arange(len(count))
    column[order] = rank[piece]
    return column
