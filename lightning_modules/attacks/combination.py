"""Blur, noise and JPEG, one after the other on every image: the paper's combined attack."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.attacks.base import Attack, checked_strength
from lightning_modules.attacks.blur import Blur
from lightning_modules.attacks.jpeg import Jpeg
from lightning_modules.attacks.noise import Noise


class Combination(Attack):
    """Blur, then noise, then JPEG, all three always, in the order of the paper's released code.

    `real` keeps blur and noise in float64 and rounds once, where the encoder takes bytes. Each stage draws what it
    would draw alone, so an image meets the same noise in `noise` and in `combination`.

    Args:
        blur: first stage.
        noise: second stage.
        jpeg: third stage.
    """

    kind = "combination"

    def __init__(self, blur: Blur, noise: Noise, jpeg: Jpeg) -> None:
        super().__init__()
        self.stages: tuple[Attack, ...] = (blur, noise, jpeg)

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give the parameters of the stages: `blur.sigma`, `blur.kernel`, `noise.std`, `jpeg.quality`."""
        return {
            f"{stage.kind}.{what}": values for stage in self.stages for what, values in stage.draw(seeds, size).items()
        }

    def at_strength(self, strength: float) -> Self:
        """Scale every stage."""
        weaker = copy(self)
        weaker.stages = tuple(stage.at_strength(checked_strength(strength)) for stage in self.stages)
        return weaker

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Send float64 pixels through the stages."""
        for stage in self.stages:
            pixels = stage.attack_pixels(pixels, seeds)
        return pixels

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Send images through the stages on the device."""
        for stage in self.stages:
            images = stage.attack_smoothly(images, seeds)
        return images
