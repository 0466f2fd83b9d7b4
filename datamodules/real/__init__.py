"""Readers of real sets by name: ``load_real_set("fashion", split="train")``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import REALS, Reader
from datamodules.real.base import LazyPictures, Pictures, RealSet
from datamodules.real.celeba import load_celeba
from datamodules.real.cifar10 import load_cifar10
from datamodules.real.fashion_mnist import Loader, load_fashion_mnist, load_fashion_sample
from datamodules.real.image_folder import FilePictures, load_afhq, load_celeba_hq, load_ffhq, load_image_folder

REAL_SETS: dict[str, Loader] = {
    "fashion": load_fashion_mnist,
    "fashion_sample": load_fashion_sample,
    "cifar10": load_cifar10,
    "celeba": load_celeba,
    "celeba_hq": load_celeba_hq,
    "ffhq": load_ffhq,
    "afhq": load_afhq,
    "folder": load_image_folder,
}


def load_real_set(
    name: str,
    root: str | Path | None = None,
    split: str = "train",
    download: bool = False,
    center_crop: int | None = None,
    resize: int | None = None,
    reader: Reader = REALS,
) -> RealSet:
    """Read one split of a real set.

    Args:
        name: One of ``REAL_SETS``.
        root: Folder of its files; None for the set's own default place.
        split: ``train`` or ``test``.
        download: Let the set's library fetch it where it is not found.
        center_crop: Side of the central square to cut out, in pixels; None keeps the set's own pictures.
        resize: Length of the shorter side to scale to then, in pixels; None keeps it.
        reader: Who reads them, for the messages.

    Raises:
        ValueError: Unknown name or split.
        FileNotFoundError: The files are not there.
        GMDataError: Files of an image folder that cannot be used, too small for the crop, or of several sizes.
    """
    if name not in REAL_SETS:
        raise ValueError(f"unknown real set {name!r}; there are {', '.join(sorted(REAL_SETS))}")
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    pixel_path = PixelPath(center_crop, resize)
    real_set = REAL_SETS[name](None if root is None else Path(root), split, download)
    pictures = real_set.pictures
    if isinstance(pictures, FilePictures):
        pictures.check(pixel_path, reader)
    if pixel_path.keeps_pixels:
        return real_set
    return replace(real_set, pictures=LazyPictures(len(pictures), lambda index: pixel_path(pictures[index])))


__all__ = ["REAL_SETS", "LazyPictures", "Pictures", "RealSet", "load_real_set"]
