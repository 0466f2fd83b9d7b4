"""The RGB space: the pixels themselves."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor


class RGBEmbedding:
    """Pixels at their own size: no crop, no resizing, no normalisation (ManiFPT, Sec. 3, RGB; released code).

    Shape ``(3, H, W)``, values in [0, 1]. An 8-bit image stays on the grid of multiples of 1/255.
    """

    name: str = "rgb"
    version: int = 1
    preprocessing: str = "none: RGB in [0, 1], native size, no crop, no normalisation"
    arguments: Mapping[str, Any] = MappingProxyType({})
    eight_bit: bool = True

    def to(self, device: torch.device) -> RGBEmbedding:
        """Itself: it has no tensors."""
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """The images ``(N, 3, H, W)`` in [0, 1] as they are, float32.

        Raises:
            ValueError: The images are not a float batch of three channels.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"Expected images of shape (N, 3, H, W) in floating point, found {tuple(images.shape)} {images.dtype}. "
                "Convert 8-bit images with images.float() / 255 and grey ones to three channels."
            )
        return images.to(torch.float32)
