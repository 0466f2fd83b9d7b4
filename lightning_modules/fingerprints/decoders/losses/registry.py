"""Distances between images, whose target is prepared once, by name: a new one is a class and a line of `LOSSES`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.common.tables import Table


class ImageLoss(nn.Module):
    """Distance between images through features, so that those of a target are computed once.

    Subclasses give `features`; the distance is the weighted mean squared difference of the features unless they say
    otherwise.
    """

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of images `(n, 3, H, W)` in [0, 1]: tensors whose first dimension is n; differentiable."""
        raise NotImplementedError

    def distance(self, features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Distance of each of n images to its target, float `(n,)`, at least 0."""
        errors = [(a - b).square().flatten(1).mean(dim=1) for a, b in zip(features, targets, strict=True)]
        return sum(errors, start=torch.zeros_like(errors[0]))

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distance between images and others, pair by pair, `(n,)`."""
        return self.distance(self.features(images), self.features(others))


_HERE = "lightning_modules.fingerprints.decoders.losses"
LOSSES = Table(
    "loss",
    {
        "pixels": f"{_HERE}.pixels:MultiScalePixels",
        "spectrum": f"{_HERE}.pixels:BlockSpectrum",
        "lpips": f"{_HERE}.lpips:Perceptual",
        "features": f"{_HERE}.lpips:NetworkFeatures",
    },
)


def make_loss(name: str, **options: Any) -> ImageLoss:
    """Build an image loss: a key of `LOSSES`, and the arguments of its class.

    Raises:
        ValueError: an unknown name.
    """
    loss: ImageLoss = LOSSES.load(name)(**options)
    return loss
