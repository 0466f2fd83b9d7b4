"""The search of one block of queries: bound every pair from below, evaluate only what the bound cannot exclude.

References stream by in tiles. In each tile

1. a screen (``screening.py``) gives a lower bound of every pair by one matrix product, and its minima over groups;
2. the pair with the smallest bound of each query is evaluated exactly, which tightens the query's limit: the k-th
   smallest exact distance so far;
3. pairs whose bound does not exceed the limit are kept.

Pairs that are kept meet the final limit, then a finer bound from more axes, and what is left is evaluated exactly,
smallest bounds first. All bounds hold with the rounding of float32 included, so the answer is that of evaluating every
pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.artifacts.exact_distance import ExactDistance
from lightning_modules.artifacts.pairs import Pairs, flat_nonzero
from lightning_modules.artifacts.projection import GROUP, Projection
from lightning_modules.artifacts.references import QueryBlock, References
from lightning_modules.artifacts.screening import FullScreen, LeadingScreen, Screen, offset
from lightning_modules.artifacts.search_memory import SearchMemory
from lightning_modules.artifacts.top_k import TopK, rank_within

_HIGHEST = 1e38  # threshold of a query without a limit: above any distance, below NEVER

# Costs in numbers of a matrix product: it runs at the processor's peak, gathered pairs at the memory's pace.
_NUMBER, _PAIR = 80, 4000


@dataclass
class SearchReport:
    """What a search did, for benchmarks and tests.

    Attributes:
        queries: Queries searched.
        by_bounds: Queries answered with the help of the bounds; the others by the plain product.
        kept: Pairs that passed the first bound.
        evaluated: Pairs evaluated exactly.
    """

    queries: int = 0
    by_bounds: int = 0
    kept: int = 0
    evaluated: int = 0


class BoundsPruneTooLittle(Exception):
    """The pairs that the bounds leave cost more than the plain product."""


class BlockSearch:
    """The search of one block of queries.

    Args:
        references: The real points.
        block: The queries.
        k: Neighbours wanted.
        banned: Rows of the block and references, ``(b,)`` int64 each: pairs that may not be returned.
        memory: Sizes of tiles and buffers.
        report: Added to.
    """

    def __init__(
        self,
        references: References,
        block: QueryBlock,
        k: int,
        banned: tuple[Tensor, Tensor],
        memory: SearchMemory,
        report: SearchReport,
    ) -> None:
        self._references, self._block = references, block
        order = torch.argsort(banned[1])
        self._banned = (banned[0][order], banned[1][order])
        self._memory, self._report = memory, report
        self._best = TopK(len(block), k, block.sums.device)
        self._exact = ExactDistance(references, block, memory.buffer)
        self._projection: Projection | None = None
        self._budget = self._spent = 0.0

    def by_bounds(self) -> TopK:
        """Search with the projection's bounds.

        Raises:
            BoundsPruneTooLittle: They exclude too little to be worth their cost.
        """
        self._projection = projection = self._references.projection
        if projection is None:
            raise BoundsPruneTooLittle
        columns = self._references.columns.count
        screen = LeadingScreen(self._block, projection, columns)
        terms = projection.axes.shape[1] + 6
        self._finer_offset = offset(self._block, screen.squared_norm, self._references.radius, terms, columns)
        self._budget = float(len(self._block)) * len(self._references) * columns
        return self._run(screen, self._memory.references)

    def by_product(self) -> TopK:
        """Search with the plain product. Neighbours that the bounds found before are kept as a start."""
        self._projection, self._budget = None, float("inf")
        width = self._memory.full_references
        return self._run(FullScreen(self._block, self._references, width), width)

    def _run(self, screen: Screen, width: int) -> TopK:
        count, total, device = len(self._block), len(self._references), self._block.sums.device
        width = min(width, -(-total // GROUP) * GROUP)
        all_values = torch.empty(count * width, device=device)
        all_minima = torch.empty(count * width // GROUP, device=device)
        waiting: list[Pairs] = []
        for start in range(0, total, width):
            wide = min(width, -(-(total - start) // GROUP) * GROUP)
            values = all_values[: count * wide].view(count, wide)
            minima = all_minima[: count * wide // GROUP].view(count, -1)
            screen.fill(start, values, minima)
            self._ban(start, values, minima)
            self._tighten(screen, start, values, minima)
            waiting.extend(self._keep(screen, start, values, minima))
            if self._spent > self._budget * (0.15 + 0.85 * (start + wide) / total):
                raise BoundsPruneTooLittle
            if sum(map(len, waiting)) > self._memory.pairs:
                self._refine(screen, Pairs.join(waiting))
                waiting = []
        if waiting:
            self._refine(screen, Pairs.join(waiting))
        return self._best

    def _threshold(self, addend: Tensor) -> Tensor:
        """``(n,)`` float32: a pair whose value is above it is not among the k nearest."""
        threshold = (self._best.limit + addend).clamp_(max=_HIGHEST).float()
        return torch.nextafter(threshold, torch.full_like(threshold, torch.inf))

    def _ban(self, start: int, values: Tensor, minima: Tensor) -> None:
        """Take pairs that may not be returned out of a tile."""
        query, reference = self._banned
        first, last = torch.searchsorted(
            reference, torch.tensor([start, start + values.shape[1]], device=reference.device)
        ).tolist()
        if first == last:
            return
        query, place = query[first:last], reference[first:last] - start
        values[query, place] = torch.inf
        group = torch.div(place, GROUP, rounding_mode="floor")
        minima[query, group] = values.view(len(values), -1, GROUP)[query, group].amin(1)

    def _tighten(self, screen: Screen, start: int, values: Tensor, minima: Tensor) -> None:
        """Evaluate the most promising pairs of a tile, so that the limits come down before pairs are kept."""
        wanted = min(self._best.distance.shape[1], minima.shape[1])
        if wanted == 1:
            value, group = minima.min(1, keepdim=True)
        else:
            value, group = minima.topk(wanted, 1, largest=False, sorted=False)
        promising = (value <= self._threshold(screen.offset)[:, None]).nonzero()
        query = promising[:, 0]
        groups = group[query, promising[:, 1]]
        rows = values.view(-1, GROUP).index_select(0, query * minima.shape[1] + groups)
        value, place = rows.min(1)
        self._refine(screen, Pairs(query, start + groups * GROUP + place, value))

    def _keep(self, screen: Screen, start: int, values: Tensor, minima: Tensor) -> list[Pairs]:
        """Pairs of a tile whose bound does not exceed the limit."""
        threshold = self._threshold(screen.offset)
        groups = flat_nonzero(minima <= threshold[:, None])
        per_query = minima.shape[1]
        kept = []
        for piece in torch.split(groups, max(1, self._memory.pairs // GROUP)):
            query = torch.div(piece, per_query, rounding_mode="floor")
            rows = values.view(-1, GROUP).index_select(0, piece)
            found = flat_nonzero(rows <= threshold.index_select(0, query)[:, None])
            at = torch.div(found, GROUP, rounding_mode="floor")
            reference = (piece - query * per_query).mul_(GROUP).add_(start).index_select(0, at) + (found % GROUP)
            pairs = Pairs(query.index_select(0, at), reference, rows.view(-1).index_select(0, found))
            self._report.kept += len(pairs)
            if self._projection is not None:
                self._spent += len(pairs) * (_NUMBER * self._projection.finer.shape[1] + _PAIR)
            if self._spent > self._budget:
                raise BoundsPruneTooLittle
            kept.append(pairs)
            if sum(map(len, kept)) > self._memory.pairs:
                self._refine(screen, Pairs.join(kept))
                kept, threshold = [], self._threshold(screen.offset)
        return kept

    def _refine(self, screen: Screen, pairs: Pairs) -> None:
        """Evaluate pairs that neither the limit as it is now nor the finer bound excludes."""
        pairs = pairs[flat_nonzero(pairs.value <= self._threshold(screen.offset).index_select(0, pairs.query))]
        addend = screen.offset
        if self._projection is not None:
            pairs, addend = self._finer(pairs, self._projection), self._finer_offset
            pairs = pairs[flat_nonzero(pairs.value <= self._threshold(addend).index_select(0, pairs.query))]
        k = self._best.distance.shape[1]
        if len(pairs) > (k + 1) * len(self._block):
            # Smallest bounds first: they bring the limit down for the others.
            order = torch.argsort(pairs.value)
            order = order[torch.argsort(pairs.query[order], stable=True)]
            pairs = pairs[order]
            first = rank_within(pairs.query) < k
            self._evaluate(pairs[flat_nonzero(first)])
            later = ~first & (pairs.value <= self._threshold(addend).index_select(0, pairs.query))
            pairs = pairs[flat_nonzero(later)]
        self._evaluate(pairs)

    def _finer(self, pairs: Pairs, projection: Projection) -> Pairs:
        """Replace the first bound by the one from all axes: exchange the first residual for axes and the last one."""
        assert self._block.finer is not None
        own, theirs = self._block.finer, projection.finer
        value = torch.empty_like(pairs.value)
        rows = max(1, min(4096, self._memory.buffer // (8 * own.shape[1])))
        for start in range(0, len(pairs), rows):
            part = slice(start, start + rows)
            difference = theirs.index_select(0, pairs.reference[part].to(theirs.device)).to(own.device)
            difference.sub_(own.index_select(0, pairs.query[part])).square_()
            difference[:, -1].neg_()
            torch.add(pairs.value[part], difference.sum(1), out=value[part])
        return Pairs(pairs.query, pairs.reference, value)

    def _evaluate(self, pairs: Pairs) -> None:
        self._report.evaluated += len(pairs)
        if self._projection is not None:
            self._spent += len(pairs) * (_NUMBER * self._references.columns.count + _PAIR)
        self._best.merge(pairs.query, pairs.reference, self._exact(pairs.query, pairs.reference))
