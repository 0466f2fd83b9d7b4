"""The search of one block of queries by lower bounds.

References lie in cells (`pca_bounds.py`), and pairs are excluded step by step:

1. In the cell whose box is nearest to a query, the pair with the smallest bound is evaluated exactly. Its distance
   limits how far the nearest neighbour can be.
2. Cells whose box lies beyond the limit are left out.
3. In the other cells one matrix product bounds all pairs by the leading axes (`lower_bounds.py`);
   pairs beyond the limit are dropped.
4. A bound from more axes drops most of the rest, and what is left is evaluated exactly, smallest bounds first.

All bounds hold with the rounding of float32 included, so the answer is that of evaluating every pair.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_modules.artifacts.search.candidates import (
    GROUP,
    Candidates,
    candidates_below,
    flat_nonzero,
    group_minima,
)
from lightning_modules.artifacts.search.lower_bounds import BANNED, FullDistances, LeadingBounds
from lightning_modules.artifacts.search.pca_bounds import CELL, Projection
from lightning_modules.artifacts.search.refinement import BoundsPruneTooLittle, Refinement

_NEAREST = 3  # cells whose best reference is tried first
_ROWS, _TOGETHER = 2048, 32  # fewer queries than _ROWS take up to _TOGETHER cells at a time


class BoundedSearch:
    """The search of a block by lower bounds (see the module).

    Args:
        refinement: The references, with a projection, the queries, and where pairs go.
        banned: Rows of the block and references, ``(b,)`` int64 each: pairs that may not be returned.
    """

    def __init__(self, refinement: Refinement, banned: tuple[Tensor, Tensor]) -> None:
        references, block = refinement.references, refinement.block
        assert references.projection is not None
        self._projection: Projection = references.projection
        self._refinement, self._memory, self._report = refinement, refinement.memory, refinement.report
        self._leading = LeadingBounds(block, self._projection, references.columns.count)
        cells = self._projection.cells
        self._start: list[int] = cells.start.tolist()
        self._bounds = cells.bounds(self._leading.description, self._projection.leading_axes)
        self._buffer = torch.empty(max(len(block), _ROWS) * CELL, device=block.sums.device)
        # What the same queries would cost by the plain product, and the evaluations that neither search can avoid.
        self._product = float(len(block)) * len(references) * references.columns.count
        self._unavoidable = refinement.cost_of(3 * refinement.best.distance.numel())
        place = torch.empty_like(cells.order)
        place[cells.order] = torch.arange(len(references))
        banned_place = place[banned[1].cpu()].to(banned[0].device)
        order = torch.argsort(banned_place)
        self._banned = (banned[0][order], banned_place[order])
        edges = torch.searchsorted(banned_place[order], cells.start.to(banned_place.device))
        self._banned_start: list[int] = edges.tolist()

    def run(self) -> None:
        """Search.

        Raises:
            BoundsPruneTooLittle: The bounds exclude too little to be worth their cost.
        """
        self._limit_from_nearest_cells()
        leading, refinement = self._leading, self._refinement
        waiting: list[Candidates] = []
        held = 0
        near = self._bounds <= refinement.threshold(leading.box_addend)[:, None]
        # Few queries look at several cells at a time, so that products stay large enough to be efficient.
        together = max(1, min(_TOGETHER, _ROWS // len(near)))
        threshold = refinement.threshold(leading.addend)
        for done, (first, rows) in enumerate(_by_cell(near, together), start=1):
            values = self._values(first, min(first + together, len(self._start) - 1), rows)
            of_rows = threshold.index_select(0, rows)
            for found in candidates_below(values, group_minima(values), of_rows, self._memory.pairs):
                refinement.count(len(found))
                progress = min(1.0, done * together / near.shape[1])
                if refinement.spent > self._unavoidable + self._product * (0.02 + 0.98 * progress):
                    raise BoundsPruneTooLittle
                place = found.reference.add_(self._start[first])
                waiting.append(Candidates(rows.index_select(0, found.query), place, found.value))
                held += len(found)
                if held > self._memory.pairs:
                    self._refine(waiting)
                    waiting, held, threshold = [], 0, refinement.threshold(leading.addend)
        if waiting:
            self._refine(waiting)

    def _refine(self, waiting: list[Candidates]) -> None:
        self._refinement.refine_finer(Candidates.join(waiting), self._projection, self._leading)

    def _limit_from_nearest_cells(self) -> None:
        """Evaluate the k most promising references of each query's nearest cells."""
        k = self._refinement.best.distance.shape[1]
        nearest = torch.zeros_like(self._bounds, dtype=torch.bool)
        nearest.scatter_(1, self._bounds.topk(min(_NEAREST, self._bounds.shape[1]), 1, largest=False).indices, True)
        promising: list[Candidates] = []
        for cell, rows in _by_cell(nearest, 1):
            values = self._values(cell, cell + 1, rows, likely=True)
            if k == 1:
                value, place = values.min(1)
            else:
                lowest = values.topk(min(k, values.shape[1]), 1, largest=False)
                value, place = lowest.values.flatten(), lowest.indices.flatten()
                rows = rows.repeat_interleave(lowest.values.shape[1])
            promising.append(Candidates(rows, place + self._start[cell], value))
        self._refinement.try_smallest(Candidates.join(promising), self._projection)

    def _values(self, cell: int, end: int, rows: Tensor, likely: bool = False) -> Tensor:
        """Bounds of some queries in cells ``cell ... end - 1``, (rows, references), valid until the next call.

        With ``likely``, likely distances instead. Banned pairs are BANNED.
        """
        start, stop = self._start[cell], self._start[end]
        values = self._buffer[: len(rows) * (stop - start)].view(len(rows), stop - start)
        self._leading.values(rows, start, stop, values, likely)
        self._report.bounded += values.numel()
        first, last = self._banned_start[cell], self._banned_start[end]
        if first < last:
            query, place = self._banned[0][first:last], self._banned[1][first:last] - start
            row = torch.searchsorted(rows, query).clamp_(max=len(rows) - 1)
            present = rows[row] == query
            values[row[present], place[present]] = BANNED
        return values


def _by_cell(chosen: Tensor, together: int) -> list[tuple[int, Tensor]]:
    """First cell of each run of ``together`` cells that a query has chosen, ``(n, cells)`` bool, and those queries."""
    runs = pad(chosen, (0, -chosen.shape[1] % together)).view(len(chosen), -1, together).any(2)
    flat = flat_nonzero(runs.T.contiguous())
    cell = torch.div(flat, len(chosen), rounding_mode="floor")
    rows = flat - cell * len(chosen)
    cells, counts = torch.unique_consecutive(cell, return_counts=True)
    return list(zip((cells * together).tolist(), torch.split(rows, counts.tolist()), strict=True))


class ProductSearch:
    """The search of a block by the plain product, float32 distances of all pairs; arguments as `BoundedSearch`."""

    def __init__(self, refinement: Refinement, banned: tuple[Tensor, Tensor]) -> None:
        self._references, self._block, self._refinement = refinement.references, refinement.block, refinement
        self._memory, self._report = refinement.memory, refinement.report
        order = torch.argsort(banned[1])
        self._banned = (banned[0][order], banned[1][order])

    def run(self) -> None:
        """Search."""
        count, total, device = len(self._block), len(self._references), self._block.sums.device
        width = min(self._memory.references, -(-total // GROUP) * GROUP)
        full = FullDistances(self._block, self._references, width)
        all_values = torch.empty(count * width, device=device)
        all_minima = torch.empty(count * width // GROUP, device=device)
        for start in range(0, total, width):
            wide = min(width, -(-(total - start) // GROUP) * GROUP)
            values = all_values[: count * wide].view(count, wide)
            minima = all_minima[: count * wide // GROUP].view(count, -1)
            full.fill(start, values)
            self._ban(start, values)
            torch.amin(values.view(count, -1, GROUP), 2, out=minima)
            self._report.bounded += count * wide
            self._tighten(full, start, values, minima)
            self._keep(full, start, values, minima)

    def _ban(self, start: int, values: Tensor) -> None:
        """Take pairs that may not be returned out of a tile."""
        query, reference = self._banned
        edges = torch.tensor([start, start + values.shape[1]], device=reference.device)
        first, last = torch.searchsorted(reference, edges).tolist()
        values[query[first:last], reference[first:last] - start] = BANNED

    def _tighten(self, full: FullDistances, start: int, values: Tensor, minima: Tensor) -> None:
        """Evaluate the most promising pairs of a tile, so that the limits come down before others are looked at."""
        wanted = min(self._refinement.best.distance.shape[1], minima.shape[1])
        value, group = minima.topk(wanted, 1, largest=False) if wanted > 1 else minima.min(1, keepdim=True)
        promising = value <= self._refinement.threshold(full.addend)[:, None]
        query, which = promising.nonzero(as_tuple=True)
        groups = group[query, which]
        rows = values.view(-1, GROUP).index_select(0, query * minima.shape[1] + groups)
        value, place = rows.min(1)
        self._refinement.refine(Candidates(query, start + groups * GROUP + place, value), full.addend)

    def _keep(self, full: FullDistances, start: int, values: Tensor, minima: Tensor) -> None:
        """Evaluate the pairs of a tile that the limits do not exclude."""
        threshold = self._refinement.threshold(full.addend)
        for found in candidates_below(values, minima, threshold, self._memory.pairs):
            self._refinement.count(len(found))
            self._refinement.refine(Candidates(found.query, found.reference.add_(start), found.value), full.addend)
