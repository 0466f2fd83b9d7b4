"""Sample numbers: new ones in every epoch, each once over the ranks, splits far apart."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

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
    data = SampleNumbersDataModule(
        train_images=10, val_images=5, test_images=3, batch_size=2, block_size=2, negative_images=0
    )
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


def loaders(**settings):
    data = SampleNumbersDataModule(test_images=5, batch_size=4, block_size=4, **settings)
    data.setup("test")
    return data, {name: [] for name in data.test_parts()} | by_part(data.test_dataloader())


def by_part(loader):
    found = {}
    for batch in loader:
        found.setdefault(batch["part"], []).append(batch)
    return found


def numbers(loader, name="sample"):
    return [number for batch in loader for number in batch[name].tolist()]


def test_the_test_has_marked_samples_and_each_kind_of_negative():
    data, parts = loaders(negative_images=6, reals="fashion_sample")
    assert list(parts) == ["marked", "unmarked", "other_generator", "real"]
    assert numbers(parts["marked"]) == [FIRST["test"] + i for i in range(5)]
    for kind in ("unmarked", "other_generator"):
        assert numbers(parts[kind]) == [FIRST[kind] + i for i in range(6)]
        assert numbers(parts[kind], "index") == list(range(6))
    assert numbers(parts["real"], "index") == list(range(6))
    (first, *_) = parts["real"]
    assert first["image"].shape == (4, 3, 32, 32)
    assert 0.0 <= float(first["image"].min()) < float(first["image"].max()) <= 1.0
    assert data.reals.real_set.split == "test"
    assert data.describe() == {"test_images": "5", "negative_images": "6", "reals": "fashion, test split"}


def test_no_number_of_a_split_or_negative_is_anothers():
    """Sets of ten million samples do not reach each other."""
    starts = sorted(FIRST.values())
    assert all(later - earlier > 10_000_000 for earlier, later in pairwise(starts))


def test_reals_that_the_set_does_not_have_are_not_repeated():
    data = SampleNumbersDataModule(negative_images=10**6, reals="fashion_sample")
    data.setup("test")
    assert len(data.test_dataloader().dataset.parts["real"]) == len(data.reals)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"negative_images": 0, "reals": "fashion_sample"}, ["marked"]),
        ({"negative_images": 6}, ["marked", "unmarked", "other_generator"]),
    ],
    ids=["no negatives", "no reals"],
)
def test_parts_that_are_not_asked_for_are_left_out(settings, expected):
    data, parts = loaders(**settings)
    assert list(parts) == expected
    assert data.reals is None
    assert data.describe()["reals"] == "none"


def test_ranks_share_the_test_between_them():
    data = SampleNumbersDataModule(test_images=7, block_size=2, negative_images=5)
    seen = {"marked": [], "unmarked": [], "other_generator": [], "": []}
    for rank in range(3):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3)
        for part, batches in by_part(data.test_dataloader()).items():
            seen[part] += numbers(batches, "index")
    counts = {"marked": 7, "unmarked": 5, "other_generator": 5, "": 0}
    assert {part: sorted(found) for part, found in seen.items()} == {part: list(range(n)) for part, n in counts.items()}


def test_fewer_than_no_negatives_are_refused():
    with pytest.raises(ValueError, match="found negative_images=-1, expected 0 or more"):
        SampleNumbersDataModule(negative_images=-1)


def test_an_unknown_set_of_reals_is_refused_before_the_training():
    data = SampleNumbersDataModule(reals="fashon", negative_images=4)
    with pytest.raises(ValueError, match="fashon"):
        data.setup("fit")
