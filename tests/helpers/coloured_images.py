"""Small colour images with smooth areas, edges and texture, the same in every test."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.attacks import image_seeds
from lightning_modules.attacks.codec_table import photographs


def some_images(n: int, size: int = 32) -> Tensor:
    photos = photographs(size)
    return photos[torch.linspace(0, len(photos) - 1, n).long()]


def some_seeds(n: int, seed: int = 5, start: int = 0) -> Tensor:
    return image_seeds(seed, range(start, start + n))
