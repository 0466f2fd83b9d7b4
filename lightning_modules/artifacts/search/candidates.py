"""Candidate pairs (query, reference), and the best k of each query so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Candidates:
    """Pairs (query, reference) with a value each.

    Attributes:
        query: ``(p,)`` int64, rows of the block.
        reference: ``(p,)`` int64.
        value: ``(p,)`` float32, a bound or distance (see `lower_bounds.py`).
    """

    query: Tensor
    reference: Tensor
    value: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def __getitem__(self, which: Tensor) -> Candidates:
        return Candidates(*(part.index_select(0, which) for part in (self.query, self.reference, self.value)))

    @staticmethod
    def join(pairs: list[Candidates]) -> Candidates:
        """One list of several, at least one."""
        if len(pairs) == 1:
            return pairs[0]
        parts = ([getattr(part, name) for part in pairs] for name in ("query", "reference", "value"))
        return Candidates(*map(torch.cat, parts))


def flat_nonzero(mask: Tensor) -> Tensor:
    """Positions of the true elements of the flattened mask, ``(p,)`` int64."""
    if mask.device.type == "cpu":  # numpy skips runs of zeros; torch looks at every element, ten times slower
        return torch.from_numpy(mask.numpy().reshape(-1).nonzero()[0])
    return mask.flatten().nonzero()[:, 0]


GROUP = 32
"""Values reduced to one minimum before anything is compared: comparing every value costs three times as much."""


def group_minima(values: Tensor) -> Tensor:
    """Minima over groups of columns: ``(r, w)`` to ``(r, w / GROUP)``."""
    return values.view(len(values), -1, GROUP).amin(2)


def candidates_below(values: Tensor, minima: Tensor, threshold: Tensor, most: int) -> Iterator[Candidates]:
    """Pairs, row as ``query`` and column as ``reference``, whose value is at most the row's threshold ``(r,)``.

    ``values`` are ``(r, w)`` float32, contiguous, ``w`` a multiple of GROUP, ``minima`` their :func:`group_minima`;
    ``most`` values are looked at at a time.
    """
    per_row = minima.shape[1]
    groups = flat_nonzero(minima <= threshold[:, None])
    for piece in torch.split(groups, max(1, most // GROUP)):
        row = torch.div(piece, per_row, rounding_mode="floor")
        rows = values.view(-1, GROUP).index_select(0, piece)
        found = flat_nonzero(rows <= threshold.index_select(0, row)[:, None])
        at = torch.div(found, GROUP, rounding_mode="floor")
        column = (piece - row * per_row).mul_(GROUP).index_select(0, at).add_(found % GROUP)
        yield Candidates(row.index_select(0, at), column, rows.view(-1).index_select(0, found))


NONE = torch.iinfo(torch.int64).max
"""Index of a place that is still empty."""


class TopK:
    """Running best of a block of queries.

    Attributes:
        distance: ``(n, k)`` float64 squared distances, ascending; infinite where still empty.
        index: ``(n, k)`` int64; NONE where still empty.
    """

    def __init__(self, count: int, k: int, device: torch.device) -> None:
        self.distance = torch.full((count, k), torch.inf, dtype=torch.float64, device=device)
        self.index = torch.full((count, k), NONE, dtype=torch.int64, device=device)

    @property
    def limit(self) -> Tensor:
        """``(n,)`` float64: a reference farther than this is certainly not among the k nearest."""
        return self.distance[:, -1]

    def merge(self, query: Tensor, index: Tensor, distance: Tensor) -> None:
        """Take in evaluated pairs, some perhaps again: rows, references and squared distances, ``(p,)`` each."""
        if len(query):
            (self._merge_one if self.distance.shape[1] == 1 else self._merge_many)(query, index, distance)

    def _merge_one(self, query: Tensor, index: Tensor, distance: Tensor) -> None:
        old, known = self.distance[:, 0], self.index[:, 0]
        best = old.scatter_reduce(0, query, distance, "amin")
        candidates = torch.where(best < old, NONE, known)
        winners = distance == best.index_select(0, query)
        candidates.scatter_reduce_(0, query[winners], index[winners], "amin")
        self.distance[:, 0], self.index[:, 0] = best, candidates

    def _merge_many(self, query: Tensor, index: Tensor, distance: Tensor) -> None:
        k = self.distance.shape[1]
        touched = torch.unique(query)
        old_query = touched.repeat_interleave(k)
        query = torch.cat([old_query, query])
        index = torch.cat([self.index[touched].flatten(), index])
        distance = torch.cat([self.distance[touched].flatten(), distance])
        for key in ("index", "distance", "query"):  # by query, then distance, then index
            order = torch.argsort({"index": index, "distance": distance, "query": query}[key], stable=True)
            query, index, distance = query[order], index[order], distance[order]
        fresh = torch.ones_like(query, dtype=torch.bool)
        fresh[1:] = (query[1:] != query[:-1]) | (index[1:] != index[:-1]) | (index[1:] == NONE)
        query, index, distance = query[fresh], index[fresh], distance[fresh]
        rank = rank_within(query)
        keep = rank < k
        self.distance[query[keep], rank[keep]] = distance[keep]
        self.index[query[keep], rank[keep]] = index[keep]


def rank_within(groups: Tensor) -> Tensor:
    """Position of each element among those of its group, for groups that lie together: ``(p,)`` int64 to ``(p,)``."""
    sizes = torch.unique_consecutive(groups, return_counts=True)[1]
    first = torch.cumsum(sizes, 0) - sizes
    position = torch.arange(len(groups), device=groups.device)
    return position.sub_(first.repeat_interleave(sizes))
