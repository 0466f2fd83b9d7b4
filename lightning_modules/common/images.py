"""The one place where images become 8-bit: what is scored is what a saved file holds."""

from __future__ import annotations

import torch
from torch import Tensor

HIGHEST = 16.0  # floats above are 0 .. 255 by mistake: no generator overshoots [0, 1] that far


def to_uint8(images: Tensor) -> Tensor:
    """Float images of any shape as the levels of an 8-bit file: `round(255 * clamp(images, 0, 1))`, halves to even."""
    return images.detach().clamp(0.0, 1.0).mul_(255.0).round_().to(torch.uint8)


def eight_bit(images: Tensor) -> Tensor:
    """Float images as a saved 8-bit file would give them back: float32, the same shape, multiples of 1/255."""
    return to_uint8(images).float() / 255.0


def checked_uint8(images: Tensor) -> Tensor:
    """Images `(n, 3, H, W)`, float in [0, 1] or uint8, as uint8.

    Raises:
        ValueError: not `(n, 3, H, W)`, another dtype, NaN or infinity, or floats that look like 0 .. 255.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (n, 3, H, W)")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}; expected float in [0, 1] or uint8")
    if not images.isfinite().all():
        raise ValueError("images hold NaN or infinity; look at the generator")
    if len(images) and images.max() > HIGHEST:
        raise ValueError(f"images reach {images.max().item():.4g}; expected float in [0, 1], or uint8 for 0 .. 255")
    return to_uint8(images)
