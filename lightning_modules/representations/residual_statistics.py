"""Statistics of the high-pass residual that hold for a whole image: how neighbours go together, and mean spectra.

They say which filters an image went through last, which is what generators differ in, and little of what it shows.
Neither is in ManiFPT.
"""

from __future__ import annotations

import itertools
from functools import cache

import torch
from torch import Tensor

from lightning_modules.artifacts.embeddings.filters import channels_of, high_pass
from lightning_modules.representations.registry import Inputs, Representation

_CHANNELS = 3
_LEVELS = 255.0
_DIFFERENCES = ((-1.0, 1.0), (1.0, -2.0, 1.0), (1.0, -3.0, 3.0, -1.0))
_STEPS = ((1.0, 1.0, 2.0, 2.0, 0.5), (3.0, 3.0, 6.0, 6.0, 1.5))
"""Grey levels of one quantisation step: of the three differences, of the second difference in both directions, of the
residual; fine and coarse."""
_MOST = 2  # quantised values are cut at -2 and 2
_VALUES = 2 * _MOST + 1
_SOFTENING = 1e-3  # added to shares before their root
_WINDOW, _STRIDE = 16, 8
_FLOOR = 1e-7  # of the power; that of rounding to 8 bits is far above


@cache
def _pair_classes() -> tuple[list[int], int]:
    """Class of each pair of quantised values, and how many classes: pairs that a reversal or a sign makes equal."""
    classes: dict[tuple[int, int], int] = {}
    of_pair = []
    for a, b in itertools.product(range(-_MOST, _MOST + 1), repeat=2):
        same = min((a, b), (b, a), (-a, -b), (-b, -a))
        of_pair.append(classes.setdefault(same, len(classes)))
    return of_pair, len(classes)


def _difference(levels: Tensor, taps: tuple[float, ...], axis: int) -> Tensor:
    length = levels.shape[axis] - len(taps) + 1
    return torch.stack([tap * levels.narrow(axis, place, length) for place, tap in enumerate(taps)]).sum(dim=0)


def _residuals(levels: Tensor) -> list[tuple[Tensor, int]]:
    """Residuals (N, C, h, w) of levels (N, C, H, W), each with the place of its step."""
    both = ((taps, axis) for taps in range(len(_DIFFERENCES)) for axis in (2, 3))
    found = [(_difference(levels, _DIFFERENCES[taps], axis), taps) for taps, axis in both]
    twice = _difference(_difference(levels, _DIFFERENCES[1], 2), _DIFFERENCES[1], 3)
    return [*found, (twice, 3), (high_pass(levels)[..., 1:-1, 1:-1], 4)]


class ResidualCooccurrence(Representation):
    """How often quantised residuals stand side by side: ``(864,)``, roots of shares.

    The idea is that of steganalysis (Fridrich and Kodovsky, "Rich models for steganalysis of digital images", 2012),
    cut down to what a few hundred training images can fill. Eight residuals of Y, Cb and Cr: first, second and third
    differences along rows and columns, the second difference in both directions, and the image minus its 3 x 3 binomial
    blur. Each is quantised to five values, with a fine and with a coarse step; of horizontal and of vertical neighbours
    the nine classes of pairs are counted that neither a reversal nor a change of sign tells apart.
    """

    name, title = "residual_cooccurrence", "co-occurrence of residuals"
    no_gradient = "it counts rounded values"

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class.

        Raises:
            ValueError: images below 5 px.
        """
        if min(inputs.images.shape[-2:]) < 5:
            raise ValueError(f"found images {tuple(inputs.images.shape[-2:])}, expected 5 px or more for residuals")
        levels = channels_of(inputs.images.float(), "ycbcr") * _LEVELS
        of_pair, count = _pair_classes()
        classes = torch.tensor(of_pair, device=levels.device)
        shares = []
        for residual, place in _residuals(levels):
            for steps in _STEPS:
                quantised = (residual / steps[place]).round().clamp(-_MOST, _MOST).long() + _MOST
                for axis in (2, 3):
                    length = quantised.shape[axis] - 1
                    pairs = quantised.narrow(axis, 0, length) * _VALUES + quantised.narrow(axis, 1, length)
                    seen = classes[pairs].flatten(2)
                    ones = torch.ones((), device=levels.device).expand(seen.shape)
                    counts = torch.zeros(*seen.shape[:2], count, device=levels.device).scatter_add_(2, seen, ones)
                    shares.append(counts / seen.shape[2])
        return (torch.cat(shares, dim=2).flatten(1) + _SOFTENING).sqrt()

    def output_shape(self, image_shape: tuple[int, ...], shown_shape: tuple[int, ...]) -> tuple[int, ...]:
        """``(864,)``."""
        residuals = 2 * len(_DIFFERENCES) + 2
        return (residuals * len(_STEPS) * 2 * _pair_classes()[1] * _CHANNELS,)


class WelchSpectrum(Representation):
    """Mean power of windows of the residual, in logarithms: ``(243,)`` (Welch 1967).

    The logarithm of one image's spectrum scatters by more than one unit at each frequency. Here windows of 16 px,
    overlapping by half and weighted by Hann's window, are averaged first. Frequencies (ky, kx) and (-ky, kx) are put
    together. Channels are Y, Cb and Cr, of the image minus its 3 x 3 binomial blur.
    """

    name, title = "welch_spectrum", "mean spectrum of windows of the residual"

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class.

        Raises:
            ValueError: images below 16 px.
        """
        if min(inputs.images.shape[-2:]) < _WINDOW:
            raise ValueError(f"found images {tuple(inputs.images.shape[-2:])}, expected {_WINDOW} px or more")
        residual = high_pass(channels_of(inputs.images.float(), "ycbcr"))
        windows = residual.unfold(2, _WINDOW, _STRIDE).unfold(3, _WINDOW, _STRIDE)  # (N, C, rows, columns, 16, 16)
        hann = torch.hann_window(_WINDOW + 2, periodic=False, device=residual.device)[1:-1]  # no pixel weighs nothing
        power = torch.fft.rfft2(windows * torch.outer(hann, hann)).abs().square().mean(dim=(2, 3))
        half = _WINDOW // 2
        folded = power[..., : half + 1, :].clone()
        folded[..., 1:half, :] = (power[..., 1:half, :] + power[..., half + 1 :, :].flip(-2)) / 2
        logs: Tensor = (folded + _FLOOR).log()
        return logs.flatten(1)

    def output_shape(self, image_shape: tuple[int, ...], shown_shape: tuple[int, ...]) -> tuple[int, ...]:
        """``(243,)``."""
        return (_CHANNELS * (_WINDOW // 2 + 1) ** 2,)


class ResidualStatistics(Representation):
    """Both of them as one vector: ``(1107,)``."""

    name, title = "residual_statistics", "co-occurrence and mean spectrum of residuals"
    no_gradient = "its co-occurrences count rounded values"

    def __init__(self) -> None:
        self._parts = (ResidualCooccurrence(), WelchSpectrum())

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        return torch.cat([part(inputs) for part in self._parts], dim=1)

    def output_shape(self, image_shape: tuple[int, ...], shown_shape: tuple[int, ...]) -> tuple[int, ...]:
        """``(1107,)``."""
        return (sum(part.output_shape(image_shape, shown_shape)[0] for part in self._parts),)
