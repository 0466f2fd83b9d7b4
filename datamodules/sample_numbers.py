"""SampleNumbersDataModule: numbers of samples, from which a module makes latents, keys, images and attacks.

Only the reals of the test are read: all else about sample i follows from i and the experiment's seed. The numbers of
training, validation and test are far apart, so that no latent, key or attack is met twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from datamodules.blocks import block_loader
from datamodules.images.image_io import MAX_PIXELS
from datamodules.images.problems import REALS_OF_OTHERS
from datamodules.real import load_real_set
from datamodules.real_images import RealImages
from datamodules.samplers import evaluation_sampler, rank_and_world

FIRST = {"train": 0, "val": 2**40, "test": 2**41, "unmarked": 2**42, "other_generator": 2**43}
"""First sample number of each split, and of the negatives that are generated for the test."""


class SampleNumbers(Dataset[dict[str, int]]):
    """Items `{"sample": first + i, "index": i}`; any index may be asked for, whatever the length `count`."""

    def __init__(self, count: int, first: int) -> None:
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"sample": self.first + index, "index": index}


class StreamSampler(Sampler[int]):
    """New positions in every epoch: epoch e has `e * count .. (e + 1) * count - 1`, dealt out to the ranks.

    What does not divide by the number of processes, `world`, is left out.
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
        negative_images: Images of each kind of negative in the test: unmarked, another generator's, real; 0 for none.
        reals: Real set whose test split gives the real ones (``datamodules.real.REAL_SETS``); None for none.
        reals_root: Folder of its files; None for its default place.
        reals_center_crop: Side of the central square to cut out of the reals first, in pixels; None keeps them whole.
        reals_resize: Length of the shorter side to scale the reals to then, in pixels; None keeps it.
        block_size: Samples of a block: what a test computes and commits at once, on whatever process. The last digits
            of its numbers depend on it.
        reals_max_image_pixels: Most pixels that a real may have in its file; a larger one is refused by its header.

    Raises:
        ValueError: A count below 1, or fewer training samples than a batch has.
    """

    CHANGEABLE_ON_RESUME = frozenset(
        {"val_images", "test_images", "negative_images", "reals", "reals_root", "block_size"}
    )
    """Arguments that may differ where a training goes on: they take effect in the next validation or test."""

    def __init__(
        self,
        train_images: int = 50_000,
        val_images: int = 1_000,
        test_images: int = 1_000,
        batch_size: int = 64,
        negative_images: int = 2_500,
        reals: str | None = None,
        reals_root: str | None = None,
        reals_center_crop: int | None = None,
        reals_resize: int | None = None,
        block_size: int = 64,
        reals_max_image_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__()
        if min(train_images, val_images, test_images, batch_size, block_size) < 1 or train_images < batch_size:
            raise ValueError(
                f"found train_images={train_images}, val_images={val_images}, test_images={test_images}, "
                f"batch_size={batch_size}, block_size={block_size}; expected at least 1 each and no fewer training "
                "images than a batch has"
            )
        if negative_images < 0:
            raise ValueError(f"found negative_images={negative_images}, expected 0 or more")
        self.save_hyperparameters()
        self.reals: RealImages | None = None

    def setup(self, stage: str) -> None:
        """Open the real set where the test needs it: a missing set is an error here."""
        given = self.hparams
        asked = stage in ("fit", "test") and given["reals"] is not None and given["negative_images"]
        if asked and self.reals is None:
            size = {name: given[f"reals_{name}"] for name in ("center_crop", "resize", "max_image_pixels")}
            reals = load_real_set(given["reals"], given["reals_root"], "test", **size, reader=REALS_OF_OTHERS)
            self.reals = RealImages(reals)

    def test_parts(self) -> list[str]:
        """The parts of the test: marked samples, and the kinds of negatives."""
        if not self.hparams["negative_images"]:
            return ["marked"]
        return ["marked", "unmarked", "other_generator", *(["real"] if self.reals is not None else [])]

    def describe(self) -> dict[str, str]:
        """What a report says of the data."""
        reals = f"{self.reals.real_set.name}, {self.reals.real_set.split} split" if self.reals is not None else "none"
        return {name: f"{self.hparams[name]:,}" for name in ("test_images", "negative_images")} | {"reals": reals}

    def train_dataloader(self) -> DataLoader[Any]:
        """Full batches of numbers never seen before."""
        numbers = self._numbers("train")
        sampler = StreamSampler(len(numbers), *rank_and_world(self.trainer))
        return DataLoader(numbers, batch_size=self.hparams["batch_size"], sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation's numbers, each once over all processes."""
        return self._loader(self._numbers("val"))

    def test_dataloader(self) -> DataLoader[Any]:
        """This process's blocks of the `test_parts`; the real images come as `{"image", "index", ...}`."""
        parts = {name: self._part(name) for name in self.test_parts()}
        return block_loader(parts, self.hparams["block_size"], self.trainer)

    def _part(self, name: str) -> Subset[Any] | SampleNumbers:
        if name == "marked":
            return self._numbers("test")
        count = self.hparams["negative_images"]
        if name != "real":
            return SampleNumbers(count, FIRST[name])
        assert self.reals is not None
        return Subset(self.reals, range(min(count, len(self.reals))))

    def evaluation_settings(self) -> dict[str, Any]:
        """What a test's numbers depend on, beside the numbers of images."""
        return {} if self.reals is None else {"reals": self.reals.content_hash(self.hparams["negative_images"])}

    def _numbers(self, split: str) -> SampleNumbers:
        return SampleNumbers(self.hparams[f"{split}_images"], FIRST[split])

    def _loader(self, items: SampleNumbers) -> DataLoader[Any]:
        sampler = evaluation_sampler(items, self.trainer)
        return DataLoader(items, batch_size=self.hparams["batch_size"], sampler=sampler)
