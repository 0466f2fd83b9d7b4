"""The decay of high frequencies, of Dzanic et al. 2020, "Fourier spectrum discrepancies in deep network ..."."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_modules.representations.baselines.levels import grey_levels, ring_means, rings
from lightning_modules.representations.registry import Inputs, Representation

_BINS, _SMOOTHING = 200, 5
_LOWEST, _HIGHEST, _STEPS = -60.0, 60.0, 80
_GOLDEN = (math.sqrt(5) - 1) / 2


class SpectrumDecay(Representation):
    """How the highest frequencies fall off: the exponent c, the first value y_i and the last y_f, 3 numbers.

    The paper: the spectrum of a camera's image goes on falling at the highest frequencies, that of a generated one
    levels off; a power law is fitted to the end of the radial spectrum, and 5 nearest neighbours decide by its three
    numbers. As the authors' program has it: ``|fft2|`` of grey levels, its mean in 200 equal bins of radius from half
    of the corner's on, empty bins filled from their neighbours, a moving average of 5; from a share ``threshold`` of
    the largest radius on ``y = y_i (x / x_1)^c`` is fitted by least squares over c alone, y_i being the first value. It
    searches c from -2 by Nelder and Mead; here a search of the golden section finds the same minimum for all images at
    once. The program sets a threshold of .75 and calls itself with .85. Ours: .75, all training images for the
    neighbours where theirs takes 100 of a class, and one bin for each whole radius where there are fewer than 200:
    small images leave little to fit (11 bins at 32 px, 6 of them above the threshold).

    Args:
        threshold: Share of the largest radius from which on the law is fitted, above .5 and below 1.

    Raises:
        ValueError: another threshold.
    """

    name, title = "spectrum_decay", "decay of high frequencies (Dzanic 2020)"
    no_gradient = "it is computed of rounded grey levels"

    def __init__(self, threshold: float = 0.75) -> None:
        if not 0.5 < threshold < 1.0:
            raise ValueError(f"found threshold {threshold} of the decay's fit, expected one above 0.5 and below 1")
        self.threshold = threshold

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        radii, means = upper_spectrum(grey_levels(inputs.images).double())
        fitted = radii >= min(self.threshold, float(radii[-2]))  # two points at least
        radii, means = radii[fitted] / radii[fitted][0], means[:, fitted]
        exponent = _fit_exponent(radii, means)
        return torch.stack([exponent, means[:, 0], means[:, -1]], dim=1).float()

    def output_shape(self, image_shape: tuple[int, ...], shown_shape: tuple[int, ...]) -> tuple[int, ...]:
        """``(3,)``."""
        return (3,)


def upper_spectrum(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Radii ``(B,)``, as shares of the corner's, and the smoothed mean ``|fft2|`` around each, ``(N, B)``.

    For float64 grey images ``(N, H, W)``; the upper half of the radii.
    """
    height, width = grey.shape[-2:]
    spectrum = torch.fft.fftshift(torch.fft.fft2(grey), dim=(-2, -1)).abs()
    radius = rings((height, width), (height // 2, width // 2), grey.device)
    corner = float(radius.max())
    bins = max(_SMOOTHING, min(_BINS, math.floor(corner) - math.floor(corner / 2)))
    step = corner / 2 / bins
    ring = ((radius - corner / 2) / step).floor().long().clamp(max=bins - 1)  # below the half: negative, left out
    means, sizes = ring_means(spectrum, ring, bins)
    filled = (sizes > 0).nonzero()[:, 0]
    places = torch.arange(bins, device=grey.device)
    nearest = filled[(places[:, None] - filled[None]).abs().argmin(dim=1)]
    means = means[:, nearest]
    window = (places[:, None] - places[None]).abs() <= _SMOOTHING // 2  # shorter at both ends
    smooth = (means[:, None, :] * window).sum(dim=2) / window.sum(dim=1)
    return 0.5 + (places.double() + 0.5) / bins / 2, smooth


def _fit_exponent(radii: Tensor, means: Tensor) -> Tensor:
    """Exponents c of ``means ~ means[:, 0] * radii^c`` by least squares, ``(N,)``, for radii that begin at 1."""

    def misfit(exponent: Tensor) -> Tensor:
        return (means[:, :1] * radii ** exponent[:, None] - means).square().sum(dim=1)

    low, high = torch.full_like(means[:, 0], _LOWEST), torch.full_like(means[:, 0], _HIGHEST)
    for _ in range(_STEPS):  # the bracket ends 1e-14 wide
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        smaller = misfit(left) <= misfit(right)
        low, high = torch.where(smaller, low, left), torch.where(smaller, right, high)
    return (low + high) / 2
