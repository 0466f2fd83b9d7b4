"""Blocks: runs of consecutive samples that are evaluated together, the same whatever the number of processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

Block = tuple[str, int]
"""Part of the evaluation and number of the block in it: samples `number * size` and following."""
_T = TypeVar("_T")


def blocks_of(parts: Mapping[str, int], size: int) -> list[Block]:
    """All blocks of at most `size` samples, in order, of parts with so many samples each.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"found block_size {size}, expected at least 1")
    return [(part, number) for part, samples in parts.items() for number in range(-(-samples // size))]


def samples_of(number: int, samples: int, size: int) -> range:
    """Positions of the samples of a block, in a part of so many samples."""
    return range(number * size, min((number + 1) * size, samples))


def share_of(blocks: Sequence[_T], rank: int, world: int) -> list[_T | None]:
    """The blocks of one process, every `world`-th; None where others have one more, or there is none: equally long."""
    mine: list[_T | None] = list(blocks[rank::world])
    longest = max(1, -(-len(blocks) // world))
    return mine + [None] * (longest - len(mine))
