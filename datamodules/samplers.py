"""Samplers that depend on (seed, epoch) or on the rank alone, never on call order.

The Trainer runs with ``use_distributed_sampler=False``: Lightning's own sampler repeats samples so that all ranks have
equally many, which counts some images twice in an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch import distributed
from torch.utils.data import Sampler


def rank_and_world(trainer: Any | None) -> tuple[int, int]:
    """(rank, world size) from the attached trainer, else from torch.distributed, else (0, 1)."""
    if trainer is not None:
        return int(trainer.global_rank), int(trainer.world_size)
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class TrainingSampler(Sampler[int]):
    """A permutation keyed by (seed, epoch), dealt out to the ranks in equal numbers.

    Up to ``world - 1`` samples of the permutation's tail are left out of an epoch, others each time; none comes twice.
    Lightning calls ``set_epoch`` before each epoch.
    """

    def __init__(self, data: Sized, seed: int, rank: int = 0, world: int = 1) -> None:
        self.count, self.seed, self.rank, self.world = len(data), seed, rank, world
        self.epoch = 0
        if self.count < world:
            raise ValueError(f"{self.count} training samples for {world} processes; use at most {self.count} processes")

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.world

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(self.count, generator=generator)
        return iter(order[self.rank : len(self) * self.world : self.world].tolist())


class UnrepeatedDistributedSampler(Sampler[int]):
    """Every sample exactly once over all ranks: rank r has the r-th of `world` equal stretches, longer ones first.

    Raises:
        ValueError: Fewer samples than processes: a process without a sample would hang the others.
    """

    def __init__(self, data: Sized, rank: int = 0, world: int = 1) -> None:
        if len(data) < world:
            raise ValueError(f"{len(data)} samples to evaluate on {world} processes; use {len(data)} at most")
        each, longer = divmod(len(data), world)
        start = rank * each + min(rank, longer)
        self.positions = range(start, start + each + (rank < longer))

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)


def training_sampler(data: Sized, seed: int, trainer: Any | None) -> TrainingSampler:
    """The training order of ``data`` for this process."""
    return TrainingSampler(data, seed, *rank_and_world(trainer))


def evaluation_sampler(data: Sized, trainer: Any | None) -> UnrepeatedDistributedSampler:
    """This process's share of ``data``, each sample once over all processes."""
    return UnrepeatedDistributedSampler(data, *rank_and_world(trainer))
