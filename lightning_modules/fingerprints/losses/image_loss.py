"""The form of a distance between images whose target is prepared once."""

from __future__ import annotations

from collections.abc import Sequence

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
