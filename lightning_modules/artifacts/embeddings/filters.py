"""What comes before a transform: channels of an image, and its high-pass residual."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from lightning_modules.common.tables import check_name

CHANNELS = {"rgb": 3, "grey": 1, "ycbcr": 3}
"""How many channels each choice gives."""
_SMOOTH = (0.25, 0.5, 0.25)
_RED, _BLUE = 0.299, 0.114  # shares of luma; green has the rest
_TO_CB, _TO_CR = 0.5 / (1 - _BLUE), 0.5 / (1 - _RED)


def check_images(images: Tensor) -> Tensor:
    """Images ``(N, 3, H, W)`` as float32.

    Raises:
        ValueError: The images are not a float batch of three channels.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"Expected images of shape (N, 3, H, W) in floating point, found {tuple(images.shape)} {images.dtype}. "
            "Convert 8-bit images with images.float() / 255 and grey ones to three channels."
        )
    return images.to(torch.float32)


def channels_of(images: Tensor, channels: str) -> Tensor:
    """``(N, 3, H, W)`` in [0, 1] as RGB, grey ``(N, 1, H, W)`` or YCbCr (ITU-R BT.601, full range, chroma about 0.5).

    Raises:
        ValueError: Other channels.
    """
    check_name("channels", channels, CHANNELS)
    if channels == "rgb":
        return images
    red, green, blue = images.unbind(dim=1)
    # from differences, so that the chroma of a grey pixel is 0.5 to the last bit: rounding errors of the usual sum
    # would be all that the spectrum of its residual shows
    grey = green + _RED * (red - green) + _BLUE * (blue - green)
    if channels == "grey":
        return grey[:, None]
    return torch.stack([grey, (blue - grey) * _TO_CB + 0.5, (red - grey) * _TO_CR + 0.5], dim=1)


def high_pass(images: Tensor) -> Tensor:
    """The images minus their blur by the 3 x 3 binomial kernel (a Gaussian of 0.7 px), ``(N, C, H, W)``.

    The border is mirrored without its edge pixel.
    """
    taps = images.new_tensor(_SMOOTH)
    kernel = torch.outer(taps, taps)[None, None]
    rows = images.flatten(0, 1)[:, None]
    return (rows - conv2d(pad(rows, (1, 1, 1, 1), mode="reflect"), kernel)).view_as(images)
