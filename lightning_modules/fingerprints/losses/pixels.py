"""Multi-scale pixel distance: needs no weights, works at any size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.fingerprints.losses.image_loss import ImageLoss


class MultiScalePixels(ImageLoss):
    """Sum over scales of the mean squared difference, each scale half the size of the last.

    The coarse scales see past noise and blur and give an inversion slopes to follow from far away.

    Args:
        scales: number of scales, at least 1; a scale smaller than 4 pixels is left out.
    """

    def __init__(self, scales: int = 3) -> None:
        super().__init__()
        if scales < 1:
            raise ValueError(f"found {scales} scales, expected at least 1")
        self.scales = scales

    def features(self, images: Tensor) -> list[Tensor]:
        """The images at each scale."""
        pyramid = [images]
        while len(pyramid) < self.scales and min(pyramid[-1].shape[-2:]) >= 8:
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        return pyramid
