"""Blocks as batches: every process gets whole blocks of consecutive samples, each block once over all processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from datamodules.samplers import rank_and_world
from lightning_modules.common.blocks import Block, blocks_of, samples_of, share_of

Collate = Callable[[list[Any]], dict[str, Any]]


class Blocks(Dataset[dict[str, Any]]):
    """Item i is the batch of one block, with its `part` and the number of the `block`.

    Where a process has no block left while others have, there is an empty batch: `{"part": "", "block": -1, "index":
    int64 (0,)}`.
    """

    def __init__(
        self, parts: Mapping[str, Any], size: int, blocks: Sequence[Block | None], collate: Collate = default_collate
    ) -> None:
        self.parts, self.size, self.blocks, self.collate = dict(parts), size, list(blocks), collate

    @property
    def images_left(self) -> dict[str, int]:
        """Samples in the blocks, by part."""
        left = dict.fromkeys(self.parts, 0)
        for block in self.blocks:
            if block is not None:
                left[block[0]] += len(samples_of(block[1], len(self.parts[block[0]]), self.size))
        return left

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, position: int) -> dict[str, Any]:
        block = self.blocks[position]
        if block is None:
            return {"part": "", "block": -1, "index": torch.empty(0, dtype=torch.long)}
        samples = self.parts[block[0]]
        items = [samples[place] for place in samples_of(block[1], len(samples), self.size)]
        return {**self.collate(items), "part": block[0], "block": block[1]}


def block_loader(
    parts: Mapping[str, Any],
    size: int,
    trainer: Any | None,
    num_workers: int = 0,
    collate: Collate = default_collate,
    find: Callable[[dict[str, int], int], list[Block]] | None = None,
) -> DataLoader[dict[str, Any]]:
    """This process's blocks of data sets by the name of the part.

    Who keeps finished blocks says which are left: `find({part: samples}, size)`, by default the method
    `unfinished_blocks` of the trainer's module, is called on every process and gives the same list to each.
    """
    counts = {name: len(samples) for name, samples in parts.items()}
    if find is None:
        find = getattr(getattr(trainer, "lightning_module", None), "unfinished_blocks", blocks_of)
    mine = share_of(find(counts, size), *rank_and_world(trainer))
    blocks = Blocks(parts, size, mine, collate)
    return DataLoader(blocks, batch_size=None, num_workers=num_workers, pin_memory=torch.cuda.is_available())
