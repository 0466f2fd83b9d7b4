"""Exact nearest neighbours of any number of queries, in blocks that fit the memory.

Each block is searched with lower bounds (``bounded_search.py``). A first, small block is a probe: where the bounds
exclude too little to be worth their cost, it and all others are searched with the plain product instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.artifacts.bounded_search import BoundedSearch
from lightning_modules.artifacts.product_search import ProductSearch
from lightning_modules.artifacts.references import References, on_grid, prepare
from lightning_modules.artifacts.refinement import BoundsPruneTooLittle, Refinement, SearchReport
from lightning_modules.artifacts.search_memory import SearchMemory, full_precision
from lightning_modules.artifacts.top_k import TopK

_PROBE = 32
"""Queries on which a search tries whether the bounds prune enough."""


@dataclass(frozen=True)
class Neighbours:
    """Nearest references.

    Attributes:
        distance: ``(N, k)`` float64, Euclidean, ascending.
        index: ``(N, k)`` int64.
    """

    distance: Tensor
    index: Tensor


def search(
    references: References,
    queries: Tensor,
    k: int,
    banned: tuple[Tensor, Tensor],
    memory_limit: int,
    report: SearchReport | None = None,
) -> Neighbours:
    """Find the k nearest references of each query.

    Args:
        references: The real points.
        queries: ``(N, D)`` float32, finite.
        k: Neighbours wanted; every query must have as many references that are not banned.
        banned: Rows of queries and references, ``(b,)`` int64 each: pairs that may not be returned.
        memory_limit: Bytes that the search may allocate.
        report: Filled in, if given.

    Returns:
        Distances in the units of the points' values (1 = the range of RGB), and indices; ties to the lowest index.
        Where queries and references are 8-bit the squared distance is an integer over 255^2: ties are true ties.
    """
    report = SearchReport() if report is None else report
    report.queries += len(queries)
    memory = SearchMemory.plan(references, memory_limit, len(queries))
    result = TopK(len(queries), k, queries.device)
    order, grid = _order(queries, references, memory)
    bounded = references.projection is not None
    with torch.no_grad(), full_precision(queries.device):
        start = 0
        while start < len(order):
            probing = bounded and start == 0 and len(order) > 2 * _PROBE
            stop = min(start + (_PROBE if probing else memory.queries), len(order))
            kind = bool(grid[order[start]])
            same = grid[order[start:stop]] == kind
            stop = start + int(same.sum())  # on-grid queries come first
            rows = order[start:stop]
            block = prepare(queries.index_select(0, rows), rows, references, kind)
            local = _of_block(banned, rows, len(queries))
            refinement = Refinement(references, block, k, memory, report)
            if bounded:
                try:
                    BoundedSearch(references, block, local, refinement, memory, report).run()
                    report.by_bounds += len(block)
                except BoundsPruneTooLittle:
                    bounded = not probing
                    ProductSearch(references, block, local, refinement, memory, report).run()
            else:
                ProductSearch(references, block, local, refinement, memory, report).run()
            best = refinement.best
            result.distance[rows], result.index[rows] = best.distance, best.index
            start = stop
    return Neighbours(result.distance.clamp_(min=0).sqrt_().mul_(references.scale), result.index)


def _order(queries: Tensor, references: References, memory: SearchMemory) -> tuple[Tensor, Tensor]:
    """Order of the queries, 8-bit ones first, and which of them are 8-bit."""
    grid = torch.zeros(len(queries), dtype=torch.bool, device=queries.device)
    if references.eight_bit:
        for start in range(0, len(queries), memory.queries):
            grid[start : start + memory.queries] = on_grid(queries[start : start + memory.queries])
    return torch.argsort((~grid).to(torch.int8), stable=True), grid


def _of_block(banned: tuple[Tensor, Tensor], rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Banned pairs of the block, renumbered to its rows."""
    query, reference = banned
    if len(query) == 0:
        return banned
    place = torch.full((count,), -1, dtype=torch.int64, device=rows.device)
    place[rows] = torch.arange(len(rows), device=rows.device)
    local = place[query]
    inside = local >= 0
    return local[inside], reference[inside]
