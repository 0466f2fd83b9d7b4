"""Colour cues of McCloskey and Albright 2018, "Detecting GAN-generated imagery using color cues"."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.representations.baselines.levels import counts, grey_levels, levels
from lightning_modules.representations.registry import Inputs, Representation

_OVER, _UNDER = (240, 245, 250, 255), (0, 5, 10, 15)


class Saturation(Representation):
    """Shares of over- and under-exposed pixels, 8 numbers in [0, 1].

    The paper: generators normalise their activations, so they saturate less than cameras; shares of pixels that are too
    bright and too dark, at several thresholds, go to a linear SVM. Its exact thresholds could not be verified. Ours:
    the 8-bit luma is at least 240, 245, 250 or 255, and at most 0, 5, 10 or 15. Small images: nothing is changed.
    """

    name, title = "saturation", "shares of saturated pixels (McCloskey and Albright 2018)"
    no_gradient = "it counts rounded values"

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        grey = grey_levels(inputs.images)
        over = [(grey >= level).double().mean(dim=(1, 2)) for level in _OVER]
        under = [(grey <= level).double().mean(dim=(1, 2)) for level in _UNDER]
        return torch.stack(over + under, dim=1).float()

    def output_shape(self, image_shape: tuple[int, ...], shown_shape: tuple[int, ...]) -> tuple[int, ...]:
        """``(8,)``."""
        return (len(_OVER) + len(_UNDER),)


class ColourRatios(Representation):
    """Histogram of the ratios r = R / (R + G + B) and g = G / (R + G + B), ``bins`` x ``bins`` shares of the pixels.

    The paper's other cue: how a generator mixes its channels to colours. It was weak there (an AUC near one half). The
    number of bins is ours. Black pixels have no colour and are left out; a grey image has one ratio alone, so that this
    says nothing of a grey data set.

    Raises:
        ValueError: fewer than two bins.
    """

    name, title = "colour_ratios", "histogram of colour ratios (McCloskey and Albright 2018)"
    no_gradient = "it counts rounded values"

    def __init__(self, bins: int = 16) -> None:
        if bins < 2:
            raise ValueError(f"found bins {bins}, expected 2 or more")
        self.bins = bins

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        colours, bins = levels(inputs.images).flatten(2), self.bins  # (N, 3, pixels)
        total = colours.sum(dim=1)
        first, second = ((colours[:, channel] * bins // total.clamp(min=1)).clamp(max=bins - 1) for channel in (0, 1))
        found = counts((first * bins + second).where(total > 0, torch.full_like(total, -1)), bins * bins)
        return (found.double() / found.sum(dim=1, keepdim=True).clamp(min=1)).float()

    def output_shape(self, image_shape: tuple[int, ...], shown_shape: tuple[int, ...]) -> tuple[int, ...]:
        """``(bins * bins,)``."""
        return (self.bins**2,)
