"""The space of spectra (ManiFPT, Sec. 3, FREQ)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from lightning_modules.artifacts.embeddings.filters import CHANNELS, channels_of, check_images, high_pass
from lightning_modules.artifacts.embeddings.registry import Embedding
from lightning_modules.common.tables import check_name

FLOOR = 1e-12
"""Added to the modulus before its logarithm, as in the released code."""


class FreqEmbedding(Embedding):
    """Natural logarithm of the modulus of the Fourier transform, by channel: ``ln(|fft2(x)| + 1e-12)``.

    An image is real, so its spectrum is symmetric and half of it says all. A point is that half, ``(C, H, W//2 + 1)``,
    with what stands for two coefficients scaled by the root of two: distances are those of whole spectra, at half the
    cost. :meth:`show` gives the whole spectrum with the zero frequency in the middle (``fftshift``), which is what
    networks see. The transform runs in float64, where a coefficient that is zero is zero up to 1e-15: in float32 it
    would be noise of 1e-7, far above the floor.

    Args:
        channels: ``rgb`` (the paper's), ``grey`` or ``ycbcr``.
        high_pass: Transform the high-pass residual in place of the image (not in the paper).
    """

    name: ClassVar[str] = "freq"
    preprocessing: ClassVar[str] = "ln(|fft2| + 1e-12) by channel, float64, native size, half plane of weight 2"

    def __init__(self, channels: str = "rgb", high_pass: bool = False) -> None:
        self.channels, self.high_pass = check_name("channels", channels, CHANNELS), high_pass
        self.arguments = {"channels": channels, "high_pass": high_pass}
        parts = ["freq", *([channels] if channels != "rgb" else []), *(["residual"] if high_pass else [])]
        self.label = "_".join(parts)

    def __call__(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] to ``(N, C, H, W//2 + 1)`` float32.

        Raises:
            ValueError: Images of odd width, of which a half plane would not say how wide the whole one is.
        """
        if images.shape[-1] % 2:
            raise ValueError(f"found images {images.shape[-1]} px wide, expected an even width for their spectra")
        values = channels_of(check_images(images).double(), self.channels)
        spectrum = torch.fft.rfft2(high_pass(values) if self.high_pass else values).abs()
        points: Tensor = (spectrum + FLOOR).log().mul_(_weights(spectrum)).float()
        return points

    def show(self, points: Tensor) -> Tensor:
        """Whole spectra ``(N, C, H, W)``, zero frequency at ``(H//2, W//2)``, of points or their differences."""
        half = points / _weights(points)
        other = half[..., 1:-1].flip(-2, -1).roll(1, dims=-2)  # row 0 stays, row h becomes row H - h
        whole: Tensor = torch.fft.fftshift(torch.cat([half, other], dim=-1), dim=(-2, -1))
        return whole

    def mirror(self, shown: Tensor) -> Tensor:
        """The spectra of mirrored images: columns in reverse order, that of the zero frequency in its place."""
        return shown.flip(-1).roll(1, dims=-1)


def _weights(spectrum: Tensor) -> Tensor:
    """Root of how often each column of a half plane (of an even width) stands in the whole one."""
    weights = spectrum.new_full((spectrum.shape[-1],), math.sqrt(2.0))
    weights[0] = weights[-1] = 1.0
    return weights
