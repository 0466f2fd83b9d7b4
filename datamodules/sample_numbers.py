"""SampleNumbersDataModule: numbers of samples, from which a module makes latents, keys, images and attacks.

No image is read: all about sample i follows from i and the experiment's seed. The numbers of training, validation
and test are far apart, so that no latent, key or attack is met twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.samplers import evaluation_sampler, rank_and_world

FIRST = {"train": 0, "val": 2**40, "test": 2**41}
"""First sample number of each split."""


class SampleNumbers(Dataset[dict[str, int]]):
    """Items `{"sample": first + i, "index": i}`; any index may be asked for, whatever the length.

    Args:
        count: length.
        first: number of the first sample.
    """

    def __init__(self, count: int, first: int) -> None:
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, int]:
        """Item `index`."""
        return {"sample": self.first + index, "index": index}


class StreamSampler(Sampler[int]):
    """New positions in every epoch: epoch e has `e * count .. (e + 1) * count - 1`, dealt out to the ranks.

    Args:
        count: samples of an epoch over all processes; what does not divide by them is left out.
        rank: this process, 0-based.
        world: number of processes.
    """

    def __init__(self, count: int, rank: int = 0, world: int = 1) -> None:
        self.count, self.rank, self.world, self.epoch = count, rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose positions come next; Lightning calls it, after a resume as well."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.world

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * self.count + self.rank
        return iter(range(start, start + len(self) * self.world, self.world))


class SampleNumbersDataModule(pl.LightningDataModule):
    """Batches `{"sample": int64 (n,), "index": int64 (n,)}` for modules that make their own images.

    Args:
        train_images: Samples that count as an epoch; each epoch has new ones.
        val_images: Samples of the validation, the same every time.
        test_images: Samples of the test.
        batch_size: Samples per process and step.

    Raises:
        ValueError: A count below 1, or fewer training samples than a batch has.
    """

    def __init__(
        self, train_images: int = 50_000, val_images: int = 1_000, test_images: int = 1_000, batch_size: int = 64
    ) -> None:
        super().__init__()
        if min(train_images, val_images, test_images, batch_size) < 1 or train_images < batch_size:
            raise ValueError(
                f"found train_images={train_images}, val_images={val_images}, test_images={test_images}, "
                f"batch_size={batch_size}; expected at least 1 each and no fewer training images than a batch has"
            )
        self.save_hyperparameters()

    def train_dataloader(self) -> DataLoader[Any]:
        """Full batches of numbers never seen before."""
        numbers = self._numbers("train")
        rank, world = rank_and_world(self.trainer)
        sampler = StreamSampler(len(numbers), rank, world)
        return DataLoader(numbers, batch_size=self.hparams["batch_size"], sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation's numbers, each once over all processes."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """The test's numbers, each once over all processes."""
        return self._evaluation("test")

    def _numbers(self, split: str) -> SampleNumbers:
        return SampleNumbers(self.hparams[f"{split}_images"], FIRST[split])

    def _evaluation(self, split: str) -> DataLoader[Any]:
        numbers = self._numbers(split)
        sampler = evaluation_sampler(numbers, self.trainer)
        return DataLoader(numbers, batch_size=self.hparams["batch_size"], sampler=sampler)
