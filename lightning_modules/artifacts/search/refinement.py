"""From pairs that a lower bound could not exclude to exact neighbours; exact distances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_modules.artifacts.search.candidates import Candidates, TopK, flat_nonzero, rank_within
from lightning_modules.artifacts.search.index import QueryBlock, References, SearchMemory
from lightning_modules.artifacts.search.lower_bounds import LeadingBounds, PairDistances
from lightning_modules.artifacts.search.pca_bounds import Projection

_CHUNK = 64
"""Products that sum exactly in float32: 64 x (4 x 255) x 255 < 2^24 (see shared_coordinates.MAX_GROUP)."""
_NUMBERS = 2**18  # per buffer: they stay in the cache


class ExactDistance:
    """Squared distances of (query, reference) pairs, in the references' units, float64.

    Between 8-bit points the squared distance is an integer and is computed as one, so that equal distances are equal
    numbers. Otherwise it is the float64 sum of squared differences, added up in a fixed tree, so that it does not
    depend on which other pairs are computed with it, on threads or on the device.
    Its buffers take at most ``memory`` bytes.
    """

    def __init__(self, references: References, block: QueryBlock, memory: int) -> None:
        self._references, self._block = references, block
        self._count = references.columns.count
        width = -(-self._count // _CHUNK) * _CHUNK
        self._padded = pad(block.sums, (0, width - self._count)) if width > self._count else block.sums
        per_pair = 9 * width if block.on_grid else 33 * width
        self._rows = max(1, min(_NUMBERS // width, memory // per_pair))
        self._device = block.sums.device
        self._multiplicity = references.columns.multiplicity.to(self._device, torch.float64)
        self._buffers: tuple[Tensor, Tensor] | None = None

    def __call__(self, query: Tensor, reference: Tensor) -> Tensor:
        """Squared distances ``(p,)`` float64 of rows of the block and references, ``(p,)`` int64 each."""
        result = torch.empty(len(query), dtype=torch.float64, device=self._device)
        one = self._integer if self._block.on_grid else self._floating
        for start in range(0, len(query), self._rows):
            part = slice(start, start + self._rows)
            result[part] = one(query[part], reference[part])
        return result

    def _gather(self, reference: Tensor) -> Tensor:
        points = self._references.points
        return points.index_select(0, reference.to(points.device)).to(self._device)

    def _integer(self, query: Tensor, reference: Tensor) -> Tensor:
        if self._buffers is None:
            shape = (self._rows, self._padded.shape[1])
            self._buffers = (torch.zeros(shape, device=self._device), torch.empty(shape, device=self._device))
        left, right = (buffer[: len(query)] for buffer in self._buffers)
        left[:, : self._count].copy_(self._gather(reference))
        torch.index_select(self._padded, 0, query, out=right)
        # Every chunk's sum is an integer below 2^24, hence exact in float32 in any order.
        products = torch.mul(left, right, out=right)
        inner = products.view(len(query), -1, _CHUNK).sum(2).sum(1, dtype=torch.float64)
        squares = self._references.squares
        norms = squares[:, 0].index_select(0, reference.to(squares.device)).to(self._device)
        return self._block.own.index_select(0, query) + norms - 2 * inner

    def _floating(self, query: Tensor, reference: Tensor) -> Tensor:
        assert self._block.centres is not None
        difference = self._gather(reference).double()
        difference.sub_(self._block.centres.index_select(0, query)).square_().mul_(self._multiplicity)
        return self._block.remainder.index_select(0, query) + tree_sum(difference)


def tree_sum(terms: Tensor) -> Tensor:
    """Sums of rows ``(n, d)``, which are overwritten: halves are added until one number is left.

    Elementwise additions only, so that a row's sum is the same bits in any batch, thread count or device.
    """
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        terms[:, : width - half] += terms[:, half:width]
        width = half
    return terms[:, 0] if terms.shape[1] else terms.new_zeros(len(terms))


_HIGHEST = 1e38  # threshold of a query without a limit: above any distance, below the value of a banned pair
_ROWS = 2048  # pairs whose finer bound is computed at a time: they stay in the cache

# Costs in numbers of a matrix product: it runs at the processor's peak, gathered pairs at the memory's pace.
_NUMBER, _PAIR = 20, 4000

# A query's pairs are first compared in float32 where they are at least so many, of at least so many numbers.
_MANY, _MANY_NUMBERS = 4, 2**16


@dataclass
class SearchReport:
    """What a search did, for benchmarks and tests.

    Attributes:
        queries: Queries searched.
        by_bounds: Queries answered with the help of the bounds; the others by the plain product.
        bounded: Pairs whose first bound was computed.
        kept: Pairs that passed the first bound.
        compared: Pairs that passed all bounds and were compared in float32 first.
        evaluated: Pairs evaluated exactly.
    """

    queries: int = 0
    by_bounds: int = 0
    bounded: int = 0
    kept: int = 0
    compared: int = 0
    evaluated: int = 0


class BoundsPruneTooLittle(Exception):
    """The pairs that the bounds leave cost more than the plain product."""


class Refinement:
    """Limits of a block of queries, brought down by evaluating pairs exactly.

    Pairs carry a *value*, and each kind of bound an *addend* ``(n,)`` float64: a reference at the squared distance
    ``d`` has a value of at most ``d + addend`` (`lower_bounds.py`), so a pair whose value exceeds limit plus addend is
    certainly none.

    Attributes:
        references: The real points.
        block: The queries, of which k neighbours are wanted.
        memory: Sizes of tiles and buffers.
        report: Added to.
        best: The k best so far.
        spent: Cost of the pairs so far, in numbers of a matrix product.
    """

    def __init__(
        self, references: References, block: QueryBlock, k: int, memory: SearchMemory, report: SearchReport
    ) -> None:
        self.references, self.block, self.memory, self.report = references, block, memory, report
        self._exact = ExactDistance(references, block, memory.buffer)
        self._distances: PairDistances | None = None
        self.best = TopK(len(block), k, block.sums.device)
        self.spent = 0.0
        finer = 0 if references.projection is None else references.projection.finer.shape[1]
        self._finer_cost = _NUMBER * finer + _PAIR
        self._exact_cost = _NUMBER * references.columns.count + _PAIR

    def threshold(self, addend: Tensor) -> Tensor:
        """``(n,)`` float32: pairs whose value is above it are not among the k nearest."""
        threshold = (self.best.limit + addend).clamp_(max=_HIGHEST).float()
        return torch.nextafter(threshold, torch.full_like(threshold, torch.inf))

    def count(self, kept: int) -> None:
        """Take note of pairs that passed a first bound."""
        self.report.kept += kept
        self.spent += kept * self._finer_cost

    def cost_of(self, pairs: int) -> float:
        """What it costs to see pairs through to the end, in numbers of a matrix product."""
        return pairs * (self._finer_cost + self._exact_cost)

    def refine(self, pairs: Candidates, addend: Tensor) -> None:
        """Evaluate all pairs (references by index) whose value does not exclude them, smallest values first."""
        pairs = self._within(pairs, addend)
        first = self._smallest(pairs)
        self._evaluate(pairs[flat_nonzero(first)])
        self._evaluate(self._within(pairs[flat_nonzero(~first)], addend))

    def refine_finer(self, pairs: Candidates, projection: Projection, leading: LeadingBounds) -> None:
        """The same for places in the cells' order, with the finer bound and a float32 comparison in between."""
        assert self.block.leading is not None
        assert self.block.finer is not None
        pairs = self._within(pairs, leading.addend)
        self._try_likely(pairs, projection, self.block.leading[:, -1], projection.leading[:, -2])
        pairs = self._finer(self._within(pairs, leading.addend), projection)
        pairs = self._within(pairs, leading.finer_addend)
        self._try_likely(pairs, projection, self.block.finer[:, -2], projection.finer[:, -2])
        pairs = self._by_index(self._within(pairs, leading.finer_addend), projection)
        counts = torch.bincount(pairs.query, minlength=len(self.block))
        many = (counts >= _MANY) & (counts * self.references.columns.count >= _MANY_NUMBERS)
        of_many = many.index_select(0, pairs.query)
        if bool(of_many.any()):
            self._compare(pairs[flat_nonzero(of_many)], projection)
            pairs = pairs[flat_nonzero(~of_many)]
        self.refine(pairs, leading.finer_addend)

    def _compare(self, pairs: Candidates, projection: Projection) -> None:
        """Compare pairs in float32, and evaluate those that this does not exclude; references by index."""
        if self._distances is None:
            self._distances = PairDistances(self.references, self.block, self.memory.buffer)
        self.report.compared += len(pairs)
        self.spent += len(pairs) * self._exact_cost
        # Queries whose nearest references so far lie in one cell have other near references in common as well.
        order = projection.cells.order
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        nearest = self.best.index[:, 0].clamp(max=len(order) - 1).to(order.device)
        self.refine(self._distances.values(pairs, rank[nearest].to(pairs.query.device)), self._distances.addend)

    def _try_likely(self, pairs: Candidates, projection: Projection, own: Tensor, theirs: Tensor) -> None:
        """Evaluate each query's k pairs that are likely the nearest: residuals of images mostly are at right angles.

        Residuals are ``(n,)`` and ``(N,)``; a bound takes them to be parallel.
        """
        products = theirs.index_select(0, pairs.reference.to(theirs.device)).to(own.device)
        products *= own.index_select(0, pairs.query)
        likely = torch.add(pairs.value, products, alpha=2)
        self.try_smallest(Candidates(pairs.query, pairs.reference, likely), projection)

    def try_smallest(self, pairs: Candidates, projection: Projection) -> None:
        """Evaluate the k pairs of smallest value of each query; references by their place in the cells' order."""
        self._evaluate(self._by_index(pairs[flat_nonzero(self._smallest(pairs))], projection))

    def _within(self, pairs: Candidates, addend: Tensor) -> Candidates:
        """Pairs that the limits do not exclude."""
        return pairs[flat_nonzero(pairs.value <= self.threshold(addend).index_select(0, pairs.query))]

    def _smallest(self, pairs: Candidates) -> Tensor:
        """Which pairs have the k smallest values of their query: mask (p,)."""
        count, k = self.best.distance.shape
        if k == 1:
            lowest = torch.full((count,), torch.inf, device=pairs.value.device)
            lowest.scatter_reduce_(0, pairs.query, pairs.value, "amin")
            return pairs.value == lowest.index_select(0, pairs.query)
        order = torch.argsort(pairs.value)
        order = order[torch.argsort(pairs.query[order], stable=True)]
        smallest = torch.zeros(len(pairs), dtype=torch.bool, device=pairs.value.device)
        smallest[order] = rank_within(pairs.query[order]) < k
        return smallest

    def _by_index(self, pairs: Candidates, projection: Projection) -> Candidates:
        order = projection.cells.order
        index = order.index_select(0, pairs.reference.to(order.device)).to(pairs.reference.device)
        return Candidates(pairs.query, index, pairs.value)

    def _finer(self, pairs: Candidates, projection: Projection) -> Candidates:
        """Replace the first bound by the one from all axes: exchange the first residual for axes and the last one."""
        assert self.block.finer is not None
        own, theirs = self.block.finer, projection.finer
        value = torch.empty_like(pairs.value)
        rows = max(1, min(_ROWS, self.memory.buffer // (8 * own.shape[1])))
        for start in range(0, len(pairs), rows):
            part = slice(start, start + rows)
            difference = theirs.index_select(0, pairs.reference[part].to(theirs.device)).to(own.device)
            difference.sub_(own.index_select(0, pairs.query[part])).square_()
            difference[:, -1].neg_()
            torch.add(pairs.value[part], difference.sum(1), out=value[part])
        return Candidates(pairs.query, pairs.reference, value)

    def _evaluate(self, pairs: Candidates) -> None:
        known = (self.best.index.index_select(0, pairs.query) == pairs.reference[:, None]).any(1)
        pairs = pairs[flat_nonzero(~known)]
        self.report.evaluated += len(pairs)
        self.spent += len(pairs) * self._exact_cost
        self.best.merge(pairs.query, pairs.reference, self._exact(pairs.query, pairs.reference))
