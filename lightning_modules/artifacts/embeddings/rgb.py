"""The spaces of pixels: the image itself, and its high-pass residual."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lightning_modules.artifacts.embeddings.filters import CHANNELS, channels_of, check_images, high_pass
from lightning_modules.artifacts.embeddings.registry import Embedding
from lightning_modules.common.tables import check_name


class RGBEmbedding(Embedding):
    """Pixels at their own size: no crop, no resizing, no normalisation (ManiFPT, Sec. 3, RGB; released code).

    Shape ``(3, H, W)``, values in [0, 1]. An 8-bit image stays on the grid of multiples of 1/255.
    """

    name: ClassVar[str] = "rgb"
    label = "rgb"
    preprocessing: ClassVar[str] = "none: RGB in [0, 1], native size, no crop, no normalisation"
    eight_bit = True
    coloured = True

    def __call__(self, images: Tensor) -> Tensor:
        """The images ``(N, 3, H, W)`` in [0, 1] as they are, float32.

        Raises:
            ValueError: The images are not a float batch of three channels.
        """
        return check_images(images)


class ResidualEmbedding(Embedding):
    """The high-pass residual: the image minus its 3 x 3 Gaussian blur. Not in the paper.

    Traces of a generator are faint and fine; what an image shows is neither. Shape ``(C, H, W)``, values in [-1, 1].

    Args:
        channels: ``rgb``, ``grey`` or ``ycbcr``.
    """

    name: ClassVar[str] = "residual"
    preprocessing: ClassVar[str] = "image minus its blur by the 3 x 3 binomial kernel, mirrored border, native size"

    def __init__(self, channels: str = "rgb") -> None:
        self.channels = check_name("channels", channels, CHANNELS)
        self.arguments = {"channels": channels}
        self.coloured = channels == "rgb"
        self.label = "residual" if channels == "rgb" else f"residual_{channels}"

    def __call__(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] to ``(N, C, H, W)`` float32."""
        return high_pass(channels_of(check_images(images), self.channels))
