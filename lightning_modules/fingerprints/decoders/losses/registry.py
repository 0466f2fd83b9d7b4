"""Distances between images, whose target is prepared once, by name: a new one is a class and a line of `LOSSES`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
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
        "pixels": f"{_HERE}.registry:MultiScalePixels",
        "spectrum": f"{_HERE}.registry:BlockSpectrum",
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


BLOCK = 8


class BlockSpectrum(ImageLoss):
    """Mean squared difference of block DCT coefficients; equal to that of pixels, since the transform is orthonormal.

    JPEG rounds each coefficient of each 8 x 8 block on its own, colours more coarsely than brightness, and noise is the
    same in all: a search that weights every coefficient by how noisy it is in an image needs no word on the attack.
    """

    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        position, frequency = torch.arange(BLOCK), torch.arange(BLOCK)[:, None]
        rows = torch.cos(math.pi * (2 * position + 1) * frequency / (2 * BLOCK)) * math.sqrt(2 / BLOCK)
        rows[0] /= math.sqrt(2.0)
        blocks = torch.einsum("ui,vj->uvij", rows, rows).flatten(0, 1)  # (64, 8, 8)
        colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
        colours = colours / colours.norm(dim=1, keepdim=True)
        kernels = torch.einsum("ac,fij->afcij", colours, blocks).flatten(0, 1)
        self.register_buffer("basis", kernels)  # (192, 3, 8, 8)

    def features(self, images: Tensor) -> list[Tensor]:
        """Coefficients `(n, 192, ceil(H / 8), ceil(W / 8))`; borders that fill no block are continued."""
        missing = [-side % BLOCK for side in images.shape[-2:]]
        if any(missing):
            images = F.pad(images, (0, missing[1], 0, missing[0]), mode="replicate")
        return [F.conv2d(images, self.basis.to(images), stride=BLOCK)]
