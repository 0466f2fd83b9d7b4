"""Exact nearest neighbours of any number of queries, in blocks that fit the memory.

Each block is searched with lower bounds (``block_search.py``). A first, small block is a probe: where the bounds
exclude too little to be worth their cost, the plain product takes over.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.artifacts.search.block_search import BoundedSearch, ProductSearch
from lightning_modules.artifacts.search.candidates import TopK
from lightning_modules.artifacts.search.index import References, SearchMemory, full_precision, on_grid, prepare
from lightning_modules.artifacts.search.refinement import BoundsPruneTooLittle, Refinement, SearchReport


def banned_pairs(
    content_ids: Tensor, count: int, exclude: Tensor | None, exclude_index: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Exclusions of N = ``count`` queries as pairs, each once: rows of queries, indices of references, ``(b,)`` each.

    Args:
        content_ids: ``(R,)`` int64, of the references; an id that several carry excludes all of them.
        count: N.
        exclude: ``(N,)`` or ``(N, m)`` content ids, or None; negative ones mean nothing.
        exclude_index: The same by index.
        device: Where the result goes.

    Raises:
        ValueError: Shapes that do not fit the queries.
        IndexError: An index beyond the references.
    """
    rows, columns = [], []
    if exclude is not None:
        wanted = _table(exclude, count, "exclude")
        ordered, order = torch.sort(content_ids, stable=True)
        first, last = torch.searchsorted(ordered, wanted), torch.searchsorted(ordered, wanted, right=True)
        matches = torch.where(wanted < 0, 0, last - first).flatten()
        row = torch.arange(count).repeat_interleave(wanted.shape[1]).repeat_interleave(matches)
        begin = torch.cumsum(matches, 0) - matches
        place = torch.arange(len(row)) + (first.flatten() - begin).repeat_interleave(matches)
        rows.append(row)
        columns.append(order[place])
    if exclude_index is not None:
        wanted = _table(exclude_index, count, "exclude_index")
        if wanted.numel() and int(wanted.max()) >= len(content_ids):
            raise IndexError(f"exclude_index names point {int(wanted.max())}, the manifold has {len(content_ids)}.")
        row, column = (wanted >= 0).nonzero(as_tuple=True)
        rows.append(row)
        columns.append(wanted[row, column])
    if not rows:
        empty = torch.empty(0, dtype=torch.int64, device=device)
        return empty, empty
    pairs = torch.unique(torch.stack([torch.cat(rows), torch.cat(columns)]), dim=1).to(device)
    return pairs[0], pairs[1]


def _table(wanted: Tensor, count: int, name: str) -> Tensor:
    wanted = wanted.detach().cpu()
    if wanted.ndim not in (1, 2) or len(wanted) != count or wanted.is_floating_point() or wanted.dtype == torch.bool:
        raise ValueError(
            f"{name} has shape {tuple(wanted.shape)} {wanted.dtype}, expected ({count},) or ({count}, m) int64: one "
            "row for each query."
        )
    return wanted.to(torch.int64).reshape(count, -1) if count else wanted.new_zeros(0, 1, dtype=torch.int64)


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
    """Find the k nearest references of each query ``(N, D)`` float32, finite, with so many bytes to allocate.

    ``banned`` are rows of queries and references, ``(b,)`` int64 each, that may not be returned; every query must have
    k other references. ``report`` is filled in, if given.

    Returns:
        Distances in the units of the points' values (1 = the range of RGB), and indices; ties to the lowest index.
        Where queries and references are 8-bit the squared distance is an integer over 255^2: ties are true ties.
    """
    report = SearchReport() if report is None else report
    report.queries += len(queries)
    result = TopK(len(queries), k, queries.device)
    with torch.no_grad(), full_precision(queries.device):
        grid = on_grid(queries) if references.eight_bit else torch.zeros_like(queries[:, 0], dtype=torch.bool)
        for kind in (True, False):
            rows = (grid == kind).nonzero()[:, 0]
            if len(rows):
                chosen = queries if len(rows) == len(queries) else queries.index_select(0, rows)
                memory = SearchMemory.plan(references, memory_limit, len(rows), kind)
                best = _search_kind(references, chosen, k, _of_block(banned, rows, len(queries)), memory, kind, report)
                result.distance[rows], result.index[rows] = best.distance, best.index
    return Neighbours(result.distance.clamp_(min=0).sqrt_().mul_(references.scale), result.index)


def _search_kind(
    references: References,
    queries: Tensor,
    k: int,
    banned: tuple[Tensor, Tensor],
    memory: SearchMemory,
    grid: bool,
    report: SearchReport,
) -> TopK:
    """Search queries that are all, or all not, 8-bit points."""
    result = TopK(len(queries), k, queries.device)
    # The bounds are tried on a few queries, then trusted until they fail; then the plain product takes over for one
    # block, before they are tried again: other queries may be of another kind.
    bounds, trusted = references.projection is not None, False
    start = 0
    while start < len(queries):
        size = memory.queries if trusted or not bounds or len(queries) - start < 2 * _PROBE else _PROBE
        rows = torch.arange(start, min(start + size, len(queries)), device=queries.device)
        block = prepare(queries[start : start + size], references, grid, describe_them=bounds)
        local = _of_block(banned, rows, len(queries))
        refinement = Refinement(references, block, k, memory, report)
        if bounds:
            try:
                BoundedSearch(refinement, local).run()
                report.by_bounds += len(block)
                trusted = True
            except BoundsPruneTooLittle:
                bounds = trusted = False
                continue
        else:
            ProductSearch(refinement, local).run()
            bounds = references.projection is not None
        result.distance[rows], result.index[rows] = refinement.best.distance, refinement.best.index
        start += size
    return result


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
