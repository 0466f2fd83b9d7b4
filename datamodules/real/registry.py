"""What a reader of a real set gives, and the readers by name: `load_real_set("fashion", split="train")`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from datamodules.images.image_io import MAX_PIXELS, Pixels
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import REALS, Reader
from lightning_modules.common.tables import Table


class Pictures(Protocol):
    """A sequence of pictures, uint8 (H, W, 3), that may be decoded lazily."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pixels: ...


@dataclass(frozen=True)
class RealSet:
    """One split of a set of real photographs.

    Attributes:
        name: Short name; the folder of its images in a GM data set is ``real-<name>``.
        pictures: The pictures, uint8 (H, W, 3) each.
        labels: Class of each picture, int64 (N,), or None where the set has no classes.
        licence: SPDX identifier or a short statement.
    """

    name: str
    split: str
    pictures: Pictures
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    licence: str

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True)
class LazyPictures:
    """Pictures decoded on access by a function of the position."""

    count: int
    read: Callable[[int], Pixels]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Pixels:
        if not 0 <= index < self.count:
            raise IndexError(f"picture {index} of {self.count}")
        return self.read(index)


@runtime_checkable
class CheckedPictures(Protocol):
    """Pictures of files that somebody put there: looked at before they are used."""

    def limited(self, max_pixels: int) -> CheckedPictures:
        """The same pictures, of which none may have more pixels."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pixels: ...

    def check(self, pixel_path: PixelPath, reader: Reader) -> None:
        """Raise a GMDataError that names the files that cannot be used, are too small or of several sizes."""


Loader = Callable[[Path | None, str, bool], RealSet]
"""A reader: (root, split, whether to download) to one split of its set."""

REAL_SETS = Table(
    "real set",
    {
        "fashion": "datamodules.real.fashion_mnist:load_fashion_mnist",
        "fashion_sample": "datamodules.real.fashion_mnist:load_fashion_sample",
        "emoji": "datamodules.real.emoji:load_emoji",
        "emoji_64": "datamodules.real.emoji:load_emoji_64",
        "emoji_sample": "datamodules.real.emoji:load_emoji_sample",
        "cifar10": "datamodules.real.cifar10:load_cifar10",
        "celeba": "datamodules.real.celeba:load_celeba",
        "celeba_hq": "datamodules.real.image_folder:load_celeba_hq",
        "ffhq": "datamodules.real.image_folder:load_ffhq",
        "afhq": "datamodules.real.image_folder:load_afhq",
        "folder": "datamodules.real.image_folder:load_image_folder",
    },
)
"""The reader of each real set; a new one is one file and one line here."""


def load_real_set(
    name: str,
    root: str | Path | None = None,
    split: str = "train",
    download: bool = False,
    center_crop: int | None = None,
    resize: int | None = None,
    reader: Reader = REALS,
    max_image_pixels: int = MAX_PIXELS,
) -> RealSet:
    """Read one split of a real set.

    Args:
        name: A key of ``REAL_SETS``.
        root: Folder of its files; None for the set's own default place.
        split: ``train`` or ``test``.
        download: Let the set's library fetch it where it is not found.
        center_crop: Side of the central square to cut out, in pixels; None keeps the set's own images.
        resize: Length of the shorter side to scale to then, in pixels; None keeps it.
        reader: Who reads them, for the messages.
        max_image_pixels: Most pixels that a picture of an image folder may have, by its header.

    Raises:
        ValueError: Unknown name or split.
        FileNotFoundError: The files are not there.
        GMDataError: Files of an image folder that cannot be used, too small for the crop, or of several sizes.
    """
    load: Loader = REAL_SETS.load(name)
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    pixel_path = PixelPath(center_crop, resize, max_pixels=max_image_pixels)
    real_set = load(None if root is None else Path(root), split, download)
    pictures = real_set.pictures
    if isinstance(pictures, CheckedPictures):
        pictures = pictures.limited(max_image_pixels)
        pictures.check(pixel_path, reader)
        real_set = replace(real_set, pictures=pictures)
    if pixel_path.keeps_pixels:
        return real_set
    return replace(real_set, pictures=LazyPictures(len(pictures), lambda index: pixel_path(pictures[index])))
