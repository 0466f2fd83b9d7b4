"""Feature extractors small enough for tests; no test in here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_modules.metrics.extractors import FeatureExtractor


class Projection(nn.Module):
    """Random projection of the pixels, batch norm (to show that it is not trained), and a soft rectifier."""

    def __init__(self, d: int, side: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(d)
        self.weight = nn.Parameter(torch.randn(3 * side * side, d, generator=generator) / side)
        self.norm = nn.BatchNorm1d(d)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.softplus(self.norm(images.flatten(1).double() / 255 @ self.weight))


def projection(d: int = 6, side: int = 8, name: str = "projection") -> FeatureExtractor:
    # double precision: what is left between two ways of adding up is not the network's rounding
    return FeatureExtractor(name, d, Projection(d, side).double())


def noise(n: int, seed: int, brightness: float = 0.0, side: int = 8) -> Tensor:
    """uint8 `(n, 3, side, side)`."""
    generator = torch.Generator().manual_seed(seed)
    return ((torch.rand(n, 3, side, side, generator=generator) * 0.6 + brightness) * 255).round().to(torch.uint8)
