"""No attack: the clean case, with the 8-bit rounding that every saved image has gone through."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.attacks.base import Attack, checked_strength


class Identity(Attack):
    """Leave the images as they are; `real` still rounds them to 8 bits."""

    kind = "identity"

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give no parameters: there are none."""
        return {}

    def at_strength(self, strength: float) -> Self:
        """Give itself, whatever the strength in [0, 1]."""
        checked_strength(strength)
        return self

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Give the pixels."""
        return pixels

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Give the images."""
        return images
