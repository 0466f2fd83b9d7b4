"""Sample numbers: new ones in every epoch, each once over the ranks, splits far apart."""

from __future__ import annotations

import pytest

from datamodules.sample_numbers import FIRST, SampleNumbersDataModule, StreamSampler


def test_epochs_and_ranks_share_no_number():
    seen: list[int] = []
    for epoch in range(3):
        for rank in range(2):
            sampler = StreamSampler(7, rank, 2)
            sampler.set_epoch(epoch)
            numbers = list(sampler)
            assert len(numbers) == len(sampler) == 3
            seen += numbers
    assert len(set(seen)) == len(seen)
    assert list(StreamSampler(4)) == [0, 1, 2, 3]


def test_splits_lie_far_apart_and_repeat():
    data = SampleNumbersDataModule(train_images=10, val_images=5, test_images=3, batch_size=2)
    batches = [batch["sample"].tolist() for batch in data.val_dataloader()]
    assert [number for batch in batches for number in batch] == [FIRST["val"] + i for i in range(5)]
    assert [batch["index"].tolist() for batch in data.test_dataloader()] == [[0, 1], [2]]
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    assert [batch["sample"].tolist() for batch in loader] == [[10, 11], [12, 13], [14, 15], [16, 17], [18, 19]]


@pytest.mark.parametrize("counts", [{"val_images": 0}, {"train_images": 3, "batch_size": 4}, {"batch_size": 0}])
def test_counts_that_give_no_batch_are_refused(counts):
    with pytest.raises(ValueError, match="expected at least 1 each"):
        SampleNumbersDataModule(**counts)
