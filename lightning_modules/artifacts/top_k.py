"""The k best references found so far for each query, ties to the lowest index."""

from __future__ import annotations

import torch
from torch import Tensor

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
        """Take in evaluated pairs; pairs that are already known may come again.

        Args:
            query: ``(p,)`` int64, rows.
            index: ``(p,)`` int64, references.
            distance: ``(p,)`` float64 squared distances.
        """
        if len(query) == 0:
            return
        if self.distance.shape[1] == 1:
            self._merge_one(query, index, distance)
        else:
            self._merge_many(query, index, distance)

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
