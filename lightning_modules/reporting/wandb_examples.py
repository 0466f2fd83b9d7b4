"""Images before and after an attack, for Weights & Biases: which bits were misread is marked by position alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_LEAST_SIDE = 128  # small images are enlarged by a whole factor
_GAP = 6
_CELLS_A_ROW = 32
_RIGHT, _WRONG, _PAPER = (198, 203, 208), (213, 94, 0), (255, 255, 255)


@dataclass(frozen=True)
class AttackedImage:
    """An image before and after an attack.

    Raises:
        ValueError: no two 8-bit images of one shape, or positions outside the key.
    """

    caption: str  # `image 12, jpeg_50`
    before: Pixels  # (H, W, 3)
    after: Pixels  # (H, W, 3)
    wrong_bits: Sequence[int] = ()  # positions at which the decoder misread the key of `after`; no bit's value
    bits: int = 0  # length of the key; 0 for images without one

    def __post_init__(self) -> None:
        """Check shapes and positions."""
        for image in (self.before, self.after):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.shape != self.before.shape:
                raise ValueError(f"{self.caption}: found {image.dtype} {image.shape}, expected two uint8 (H, W, 3)")
        if outside := [place for place in self.wrong_bits if not 0 <= place < self.bits]:
            raise ValueError(f"{self.caption}: found wrong bits at {outside}, expected 0 to {self.bits - 1}")

    @property
    def text(self) -> str:
        """The caption, with the positions of wrong bits."""
        if not self.bits:
            return self.caption
        if not len(self.wrong_bits):
            return f"{self.caption}: all {self.bits} bits right"
        places = ", ".join(map(str, sorted(self.wrong_bits)))
        return f"{self.caption}: {len(self.wrong_bits)} of {self.bits} bits wrong, at {places}"

    def picture(self) -> Pixels:
        """Before, after, and below them a cell for each bit, those misread in orange: uint8 `(h, w, 3)`."""
        factor = max(1, -(-_LEAST_SIDE // max(self.before.shape[:2])))
        sides = [image.repeat(factor, axis=0).repeat(factor, axis=1) for image in (self.before, self.after)]
        height = sides[0].shape[0]
        pair = np.concatenate([sides[0], _filled(height, _GAP), sides[1]], axis=1)
        if not self.bits:
            return pair
        return np.concatenate([pair, _filled(_GAP, pair.shape[1]), self._strip(pair.shape[1])])

    def _strip(self, width: int) -> Pixels:
        columns = min(self.bits, _CELLS_A_ROW)
        lines = -(-self.bits // columns)
        side = max(2, width // columns)  # of a cell, with the paper to its right and below
        strip = _filled(lines * side, max(width, columns * side))
        wrong = set(self.wrong_bits)
        for place in range(self.bits):
            line, column = divmod(place, columns)
            cell = strip[line * side : (line + 1) * side - 1, column * side : (column + 1) * side - 1]
            cell[:] = _WRONG if place in wrong else _RIGHT
        return strip[:, :width]


def _filled(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), _PAPER, dtype=np.uint8)
