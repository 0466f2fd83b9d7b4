"""What a reader of a real set gives: pictures by position, and where they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules.images.image_io import Pixels


class Pictures(Protocol):
    """A sequence of 8-bit RGB pictures that may be decoded lazily."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pixels:
        """Picture ``index`` as a uint8 array of shape (H, W, 3)."""
        ...


@dataclass(frozen=True)
class RealSet:
    """One split of a set of real photographs.

    Attributes:
        name: Short name; the folder of its images in a GM data set is ``real-<name>``.
        split: ``train`` or ``test``.
        pictures: The pictures, uint8 (H, W, 3) each.
        labels: Class of each picture, int64 (N,), or None where the set has no classes.
        classes: Names of the classes, empty without labels.
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
