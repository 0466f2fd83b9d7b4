"""The search of one block of queries by the plain product: the fallback where bounds prune nothing.

References stream by in tiles; their minima over groups, then single values are compared with the limits, and what could
be nearest is evaluated exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.artifacts.pairs import Pairs
from lightning_modules.artifacts.references import QueryBlock, References
from lightning_modules.artifacts.refinement import Refinement, SearchReport
from lightning_modules.artifacts.screening import BANNED, FullScreen
from lightning_modules.artifacts.search_memory import SearchMemory
from lightning_modules.artifacts.sieve import GROUP, sieve


class ProductSearch:
    """See the module.

    Args:
        references: The real points.
        block: The queries.
        banned: Rows of the block and references, ``(b,)`` int64 each: pairs that may not be returned.
        refinement: Where pairs go.
        memory: Sizes of tiles and buffers.
        report: Added to.
    """

    def __init__(
        self,
        references: References,
        block: QueryBlock,
        banned: tuple[Tensor, Tensor],
        refinement: Refinement,
        memory: SearchMemory,
        report: SearchReport,
    ) -> None:
        self._references, self._block, self._refinement = references, block, refinement
        self._memory, self._report = memory, report
        order = torch.argsort(banned[1])
        self._banned = (banned[0][order], banned[1][order])

    def run(self) -> None:
        """Search."""
        count, total, device = len(self._block), len(self._references), self._block.sums.device
        width = min(self._memory.references, -(-total // GROUP) * GROUP)
        screen = FullScreen(self._block, self._references, width)
        all_values = torch.empty(count * width, device=device)
        all_minima = torch.empty(count * width // GROUP, device=device)
        for start in range(0, total, width):
            wide = min(width, -(-(total - start) // GROUP) * GROUP)
            values = all_values[: count * wide].view(count, wide)
            minima = all_minima[: count * wide // GROUP].view(count, -1)
            screen.fill(start, values)
            self._ban(start, values)
            torch.amin(values.view(count, -1, GROUP), 2, out=minima)
            self._report.bounded += count * wide
            self._tighten(screen, start, values, minima)
            self._keep(screen, start, values, minima)

    def _ban(self, start: int, values: Tensor) -> None:
        """Take pairs that may not be returned out of a tile."""
        query, reference = self._banned
        edges = torch.tensor([start, start + values.shape[1]], device=reference.device)
        first, last = torch.searchsorted(reference, edges).tolist()
        values[query[first:last], reference[first:last] - start] = BANNED

    def _tighten(self, screen: FullScreen, start: int, values: Tensor, minima: Tensor) -> None:
        """Evaluate the most promising pairs of a tile, so that the limits come down before others are looked at."""
        wanted = min(self._refinement.best.distance.shape[1], minima.shape[1])
        value, group = minima.topk(wanted, 1, largest=False) if wanted > 1 else minima.min(1, keepdim=True)
        promising = value <= self._refinement.threshold(screen.addend)[:, None]
        query, which = promising.nonzero(as_tuple=True)
        groups = group[query, which]
        rows = values.view(-1, GROUP).index_select(0, query * minima.shape[1] + groups)
        value, place = rows.min(1)
        self._refinement.refine(Pairs(query, start + groups * GROUP + place, value), screen.addend)

    def _keep(self, screen: FullScreen, start: int, values: Tensor, minima: Tensor) -> None:
        """Evaluate the pairs of a tile that the limits do not exclude."""
        threshold = self._refinement.threshold(screen.addend)
        for found in sieve(values, minima, threshold, self._memory.pairs):
            self._refinement.count(len(found))
            self._refinement.refine(Pairs(found.query, found.reference.add_(start), found.value), screen.addend)
