"""Readers of real sets by name: ``load_real_set("fashion", split="train")``."""

from __future__ import annotations

from pathlib import Path

from datamodules.real.base import LazyPictures, Pictures, RealSet
from datamodules.real.fashion_mnist import Loader, load_fashion_mnist, load_fashion_sample

REAL_SETS: dict[str, Loader] = {
    "fashion": load_fashion_mnist,
    "fashion_sample": load_fashion_sample,
}


def load_real_set(name: str, root: str | Path | None = None, split: str = "train", download: bool = False) -> RealSet:
    """Read one split of a real set.

    Args:
        name: One of ``REAL_SETS``.
        root: Folder of its files; None for the set's own default place.
        split: ``train`` or ``test``.
        download: Let the set's library fetch it where it is not found.

    Raises:
        ValueError: Unknown name or split.
        FileNotFoundError: The files are not there.
    """
    if name not in REAL_SETS:
        raise ValueError(f"unknown real set {name!r}; there are {', '.join(sorted(REAL_SETS))}")
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    return REAL_SETS[name](None if root is None else Path(root), split, download)


__all__ = ["REAL_SETS", "LazyPictures", "Pictures", "RealSet", "load_real_set"]
