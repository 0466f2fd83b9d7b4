"""RealImagesDataModule: one real set as batches, to train a generator on."""

from __future__ import annotations

import hashlib

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.images.image_io import MAX_PIXELS, Pixels, to_tensor
from datamodules.real import RealSet, load_real_set
from datamodules.samplers import training_sampler
from lightning_modules.common.content_ids import content_id, content_id_to_int


class RealImages(Dataset[dict[str, torch.Tensor | int]]):
    """A real set as items ``{"image": float32 (3, H, W) in [0, 1], "label", "content_id", "index"}``.

    ``mirrored``: every picture a second time, with left and right exchanged.
    """

    def __init__(self, real_set: RealSet, mirrored: bool = False) -> None:
        self.real_set = real_set
        self.mirrored = mirrored

    def __len__(self) -> int:
        return len(self.real_set) * (2 if self.mirrored else 1)

    def _pixels(self, index: int) -> tuple[Pixels, int]:
        """Pixels of item ``index`` and the picture's position in the set; the mirror images follow the pictures."""
        position = index % len(self.real_set)
        pixels = self.real_set.pictures[position]
        return (pixels if index == position else pixels[:, ::-1]), position

    def content_hash(self, count: int) -> str:
        """Hash of the first `count` pictures, at most all."""
        digest = hashlib.sha256()
        for index in range(min(count, len(self))):
            digest.update(content_id(self._pixels(index)[0]).encode())
        return digest.hexdigest()[:32]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        """Item ``index``; ``label`` is -1 where the set has no classes."""
        (pixels, position), labels = self._pixels(index), self.real_set.labels
        return {
            "image": to_tensor(pixels),
            "label": -1 if labels is None else int(labels[position]),
            "content_id": content_id_to_int(content_id(pixels)),
            "index": index,
        }


class RealImagesDataModule(pl.LightningDataModule):
    """Batches of real photographs, shuffled by (seed, epoch).

    Args:
        name: Name of the real set (``datamodules.real.REAL_SETS``).
        root: Folder of its files; None for its default place.
        batch_size: Images per process and step.
        num_workers: Processes that decode; 0 decodes in the training process.
        seed: Order of the images.
        download: Let the set's library fetch it where it is not found.
        center_crop: Side of the central square to cut out first, in pixels; None keeps the set's own pictures.
        resize: Length of the shorter side to scale to then, in pixels; None keeps it.
        mirrored: Train on the mirror image of every picture as well, which doubles a small set.
        max_image_pixels: Most pixels that a file's picture may have; a larger one is refused by its header.
    """

    CHANGEABLE_ON_RESUME = frozenset({"root", "num_workers", "download", "max_image_pixels"})
    """Arguments that may differ where a training goes on."""

    def __init__(
        self,
        name: str = "fashion",
        root: str | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        download: bool = False,
        center_crop: int | None = None,
        resize: int | None = None,
        mirrored: bool = False,
        max_image_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.train_set: RealImages | None = None

    def prepare_data(self) -> None:
        """Read the files once before any process starts: a missing set is an error here."""
        self._load(self.hparams["download"])

    def _load(self, download: bool = False) -> RealSet:
        given = self.hparams
        size = {name: given[name] for name in ("center_crop", "resize", "max_image_pixels")}
        return load_real_set(given["name"], given["root"], "train", download, **size)

    def setup(self, stage: str) -> None:
        """Open the training split."""
        if self.train_set is None:
            self.train_set = RealImages(self._load(), self.hparams["mirrored"])

    def train_dataloader(self) -> DataLoader[dict[str, torch.Tensor | int]]:
        """Shuffled full batches of the training split; the incomplete last one is left out."""
        if self.train_set is None:
            raise RuntimeError("setup('fit') has not run")
        sampler: Sampler[int] = training_sampler(self.train_set, seed=self.hparams["seed"], trainer=self.trainer)
        return DataLoader(
            self.train_set,
            batch_size=self.hparams["batch_size"],
            sampler=sampler,
            num_workers=self.hparams["num_workers"],
            persistent_workers=self.hparams["num_workers"] > 0,
            drop_last=True,
        )
