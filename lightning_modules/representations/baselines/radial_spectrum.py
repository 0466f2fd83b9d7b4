"""The radial spectrum of Durall et al. 2020, "Watch your up-convolution" (CVPR)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_modules.representations.baselines.levels import grey_levels, ring_means, rings
from lightning_modules.representations.registry import Inputs, Representation

_FLOOR = 1e-8


class RadialSpectrum(Representation):
    """Logarithm of the spectrum, averaged over directions: one number for each radius.

    The paper: up-convolutions distort high frequencies, which the azimuthal average of the spectrum shows; it goes to
    a linear SVM or a logistic regression. As the authors' program has it: grey levels 0..255, ``20 ln(|F| + 1e-8)``
    with the zero frequency in the middle, the mean over whole radii, without the first and the last; radii are measured
    from the middle of the image, half a pixel from the zero frequency. 88 numbers at 128 px, 179 at 256, 722 at 1024,
    as many as theirs. Ours: any size, all its radii (20 numbers at 32 px), not stretched to a common length.
    """

    name, title = "radial_spectrum", "radial spectrum (Durall 2020)"
    no_gradient = "it is computed of rounded grey levels"

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        grey = grey_levels(inputs.images).double()
        spectrum = torch.fft.fftshift(torch.fft.fft2(grey), dim=(-2, -1)).abs()
        shape = (grey.shape[-2], grey.shape[-1])
        ring = rings(shape, ((shape[0] - 1) / 2, (shape[1] - 1) / 2), grey.device).long()
        means, _ = ring_means(20 * (spectrum + _FLOOR).log(), ring - 1, _radii(*shape))
        return means.float()

    def output_shape(self, image_shape: tuple[int, ...], shown_shape: tuple[int, ...]) -> tuple[int, ...]:
        """As many as there are whole radii, less two."""
        return (_radii(*image_shape[1:]),)


def _radii(height: int, width: int) -> int:
    return int(math.hypot(height - 1, width - 1) / 2) - 1
