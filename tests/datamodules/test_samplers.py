"""Samplers: every sample once in evaluation, one keyed permutation in training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from datamodules.samplers import TrainingSampler, UnrepeatedDistributedSampler, evaluation_sampler, training_sampler


@pytest.mark.parametrize("world", range(1, 9))
@pytest.mark.parametrize("count", [8, 101])
def test_evaluation_covers_each_sample_once_in_order(world, count):
    shares = [list(UnrepeatedDistributedSampler(range(count), rank, world)) for rank in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(count))
    assert all(share == sorted(share) for share in shares)
    for rank, share in enumerate(shares):
        sampler = UnrepeatedDistributedSampler(range(count), rank, world)
        assert len(sampler) == len(share)
        assert list(sampler) == share  # the same each time
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("world", range(1, 9))
def test_training_deals_out_one_permutation(world):
    samplers = [TrainingSampler(range(101), seed=3, rank=rank, world=world) for rank in range(world)]
    for epoch in range(3):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        shares = [list(sampler) for sampler in samplers]
        assert {len(share) for share in shares} == {101 // world}
        assert [len(sampler) for sampler in samplers] == [101 // world] * world
        seen = [index for share in shares for index in share]
        assert len(set(seen)) == len(seen) == 101 // world * world
        alone = TrainingSampler(range(101), seed=3)
        alone.set_epoch(epoch)
        together = [index for step in zip(*shares, strict=True) for index in step]
        assert together == list(alone)[: len(together)]  # the order does not depend on the number of processes


def test_training_order_is_keyed_by_seed_and_epoch():
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sampler = TrainingSampler(range(50), seed=seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    orders = {(seed, epoch): order(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len(set(orders.values())) == 16  # also (0, 1) and (1, 0) differ
    assert order(2, 3) == orders[2, 3]
    assert orders[0, 0] != tuple(range(50))


def test_fewer_samples_than_processes():
    with pytest.raises(ValueError, match="3 samples to evaluate on 4 processes; use 3 at most"):
        UnrepeatedDistributedSampler(range(3), 0, 4)
    with pytest.raises(ValueError, match="3 training samples for 4 processes; use at most 3"):
        TrainingSampler(range(3), seed=0, rank=0, world=4)


def test_rank_and_world_come_from_the_trainer():
    trainer = SimpleNamespace(global_rank=1, world_size=3)
    assert list(evaluation_sampler(range(7), trainer)) == [3, 4]
    assert len(training_sampler(range(7), seed=0, trainer=trainer)) == 2
    assert list(evaluation_sampler(range(3), None)) == [0, 1, 2]
