"""Sets of pictures as sorted tensors of content ids: what a checkpoint keeps of its training images, and overlaps.

A content id is 63 bits of a hash of decoded pixels: two different pictures of a million share one with a probability of
5e-8. A set is an int64 tensor, sorted, each id once: 8 bytes a picture, 8 MB for a million, which a checkpoint keeps as
it is (hashes have no pattern that a compression could use; the best coding of such a set would save a third).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def content_id_to_int(identifier: str) -> int:
    """First 63 bits of a content id in hex: the form that travels in int64 tensors."""
    return int(identifier[:16], 16) >> 1


def id_set(identifiers: Iterable[str] | Tensor) -> Tensor:
    """Content ids, in hex or as int64 of any shape, as a set: int64 `(n,)`, sorted, each once.

    Raises:
        ValueError: a tensor of another dtype.
    """
    if not isinstance(identifiers, Tensor):
        numbers = np.fromiter(map(content_id_to_int, identifiers), dtype=np.int64)
        return torch.from_numpy(np.unique(numbers))
    if identifiers.dtype != torch.int64:
        raise ValueError(f"found content ids of {identifiers.dtype}, expected int64")
    unique: Tensor = torch.unique(identifiers.detach().cpu())
    return unique


def join(sets: Iterable[Tensor]) -> Tensor:
    """The union of sets."""
    parts = list(sets)
    return id_set(torch.cat(parts)) if parts else torch.empty(0, dtype=torch.int64)


def contained(identifiers: Tensor, among: Tensor) -> Tensor:
    """Which of the ids, int64 `(n,)` in any order, are in the set `among`: bool `(n,)`, on their device."""
    if not len(among):
        return torch.zeros_like(identifiers, dtype=torch.bool)
    among = among.to(identifiers.device)
    places = torch.searchsorted(among, identifiers).clamp_(max=len(among) - 1)
    found: Tensor = among[places] == identifiers
    return found


def overlap(first: Tensor, second: Tensor) -> int:
    """How many pictures two sets share."""
    return int(contained(id_set(first), id_set(second)).sum())
