"""The form of a distance between images whose target is prepared once."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class ImageLoss(nn.Module):
    """Distance between images through features, so that those of a target are computed once.

    Subclasses give `features`; the distance is the weighted mean squared difference of the features unless they say
    otherwise.
    """

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of images `(n, 3, H, W)` in [0, 1]: tensors whose first dimension is n; differentiable."""
        raise NotImplementedError

    def distance(self, features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Distance of each image to its target, float `(n,)`, at least 0.

        Args:
            features: of n images.
            targets: of n targets.
        """
        total = features[0].new_zeros(len(features[0]))
        for a, b in zip(features, targets, strict=True):
            total = total + (a - b).square().flatten(1).mean(dim=1)
        return total

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distance between images and others, pair by pair, `(n,)`."""
        return self.distance(self.features(images), self.features(others))


LOSSES = {
    "pixels": "lightning_modules.fingerprints.decoders.losses.pixels:MultiScalePixels",
    "spectrum": "lightning_modules.fingerprints.decoders.losses.pixels:BlockSpectrum",
    "lpips": "lightning_modules.fingerprints.decoders.losses.lpips:Perceptual",
    "features": "lightning_modules.fingerprints.decoders.losses.lpips:NetworkFeatures",
}


def make_loss(name: str, **options: Any) -> ImageLoss:
    """Build an image loss.

    Args:
        name: key of `LOSSES`.
        options: arguments of its class.

    Raises:
        ValueError: an unknown name.
    """
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(LOSSES)}"
        raise ValueError(f"found loss {name!r}; {hint}")
    module, attribute = LOSSES[name].split(":")
    loss: ImageLoss = getattr(importlib.import_module(module), attribute)(**options)
    return loss
