"""Lower bounds of the squared distances of many queries to many references, as one matrix product.

For short descriptions ``x`` of a query and ``y`` of a reference, ``||x - y||^2 - ||x||^2 = (-2 x, 1) . (y, ||y||^2)``:
written with the squared norm as one more coordinate the product *is* the bound, and no pass over the large matrix is
spent on adding norms.

Three kinds: the leading principal axes (short vectors, a true bound), all columns (full vectors, the distance itself
up to rounding), which is the fallback where the bound prunes nothing, and all columns of chosen pairs. Each has an
``addend`` ``(n,)`` float64: a reference whose squared distance is ``d`` has a value of at most ``d + addend``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.artifacts.search.candidates import Candidates
from lightning_modules.artifacts.search.index import QueryBlock, References
from lightning_modules.artifacts.search.pca_bounds import Projection, bound_slack

BANNED = torch.inf
"""Value of a pair that may not be returned, and of places beyond the last reference."""

_COLUMNS = 4096  # columns of a product at a time: bounds its rounding error and its buffer
_NUMBERS = 2**20  # of references at a time: they stay in the cache
_ALIKE = 16  # queries that are compared with the references of all of them: each is read once


def _slack(block: QueryBlock, radius: float, terms: int, columns: int) -> Tensor:
    """How far a bound may exceed the true squared distance less what references share, ``(n,)`` float64."""
    slack = bound_slack(terms, columns) * (block.norm + radius).square()
    # Float64 roundings of the exact distance, of what the references share and of their difference.
    return slack + 2.0**-44 * (block.own + block.remainder)


class LeadingBounds:
    """Bounds from the leading axes of the projection.

    Attributes:
        description: ``(n, L + 1)`` float32, of the queries.
        addend: Of the values.
        box_addend: Of squared distances to boxes.
        finer_addend: Of values after the exchange of the first residual for the finer description.
    """

    def __init__(self, block: QueryBlock, projection: Projection, columns: int) -> None:
        assert block.leading is not None
        self.description = block.leading
        self._references = projection.leading
        self._queries = torch.cat([block.leading * -2, torch.ones_like(block.leading[:, :1])], 1)
        self._likely = self._queries.clone()
        self._likely[:, -2] = 0
        self._chosen = torch.empty_like(self._queries)
        squared_norm = block.leading.double().square().sum(1)
        slack = _slack(block, projection.radius, projection.leading.shape[1], columns)
        self.box_addend = slack - block.remainder
        self.addend = self.box_addend - squared_norm
        finer = _slack(block, projection.radius, projection.axes.shape[1] + 6, columns)
        self.finer_addend = finer - block.remainder - squared_norm

    def values(self, rows: Tensor, first: int, last: int, out: Tensor, likely: bool = False) -> None:
        """Fill ``out`` ``(r, last - first)`` float32 for queries ``(r,)`` and the references ``first ... last - 1``.

        With ``likely``, not with the bound, but the likely distance: residuals point in unrelated directions, so that
        their product is nearly 0, where the bound takes them to be parallel.
        """
        queries = self._likely if likely else self._queries
        chosen = torch.index_select(queries, 0, rows, out=self._chosen[: len(rows)])
        torch.mm(chosen, self._references[first:last].to(rows.device).T, out=out)


class FullDistances:
    """Distances from all columns, in float32: the plain product, of at most ``width`` references at a time."""

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
        slack = _slack(block, references.radius, terms, count)
        self.addend = slack - block.remainder - block.norm.square()

    def fill(self, start: int, values: Tensor) -> None:
        """Fill ``values`` ``(n, w)`` with those of references ``start ...``; places beyond the last get BANNED."""
        references, width = self._references, values.shape[1]
        points = references.points[start : start + width]
        if len(points) < width:
            self._buffer[len(points) :] = 0
        norms = torch.full((width,), BANNED, device=values.device)
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


class PairDistances:
    """Distances of chosen pairs in float32, a few alike queries at a time, which is far cheaper than exact ones.

    With ``c`` the centre, ``||r - c||^2 - 2 (r - c) . (q - c) = ||q - r||^2 - ||q - c||^2``. The product is summed in
    pieces, which bounds its rounding error: in float32 within a piece, in float64 over the pieces. Its buffers take at
    most ``memory`` bytes.
    """

    def __init__(self, references: References, block: QueryBlock, memory: int) -> None:
        device = block.sums.device
        multiplicity = references.columns.multiplicity.to(device, torch.float64)
        centre = references.centre.to(device)
        self._points, self._squares = references.points, references.squares
        count = references.columns.count
        if block.centres is None:  # integers, exact in float32
            self._queries = block.sums - (multiplicity * centre).float()
        else:
            self._queries = (block.centres - centre).mul_(multiplicity).float()
        shift = self._queries.new_empty(len(block), dtype=torch.float64)
        for start in range(0, len(block), 256):
            shift[start : start + 256] = self._queries[start : start + 256].double() @ centre
        self._shift = shift
        self._pieces = [slice(start, min(start + _COLUMNS, count)) for start in range(0, count, _COLUMNS)]
        self._rows = max(1, min(_NUMBERS // count, memory // (5 * count)))
        self._tile = torch.empty(self._rows, count, device=device)
        rounding = (min(count, _COLUMNS) + 2) * 2.0**-24
        rounding = 2 * rounding / (1 - rounding) + 2.0**-44
        slack = _slack(block, references.radius, 0, count) + rounding * references.reach * block.norm
        self.addend = slack - block.remainder - block.norm.square()

    def values(self, pairs: Candidates, rank: Tensor) -> Candidates:
        """The pairs (references by index) with values, reordered: ``rank`` ``(n,)`` puts alike queries together."""
        pairs = pairs[torch.argsort(rank.index_select(0, pairs.query), stable=True)]
        queries, counts = torch.unique_consecutive(pairs.query, return_counts=True)
        column = torch.arange(len(queries), device=counts.device).remainder_(_ALIKE).repeat_interleave(counts)
        sizes = [int(part.sum()) for part in torch.split(counts.cpu(), _ALIKE)]
        inner = torch.empty(len(pairs), dtype=torch.float64, device=counts.device)
        parts = (torch.split(part, sizes) for part in (pairs.reference, column, inner))
        for group, reference, which, out in zip(torch.split(queries, _ALIKE), *parts, strict=True):
            union, place = torch.unique(reference, return_inverse=True)
            products = self._products(union, self._queries.index_select(0, group))
            torch.take(products, place * products.shape[1] + which, out=out)
        squares = self._squares[:, 1].index_select(0, pairs.reference.to(self._squares.device)).to(inner.device)
        value = (inner - self._shift.index_select(0, pairs.query)).mul_(-2).add_(squares)
        return Candidates(pairs.query, pairs.reference, value.float())

    def _products(self, index: Tensor, queries: Tensor) -> Tensor:
        """Every one of some references with every one of some queries, float64."""
        total = torch.zeros(len(index), len(queries), dtype=torch.float64, device=queries.device)
        factor = queries.T.contiguous()
        for chosen, sums in zip(torch.split(index, self._rows), torch.split(total, self._rows), strict=True):
            tile = self._tile[: len(chosen)]
            tile.copy_(self._points.index_select(0, chosen.to(self._points.device)))
            for piece in self._pieces:
                sums += torch.mm(tile[:, piece], factor[piece])
        return total
