"""A generator for tests whose latents and keys can all be found."""

from __future__ import annotations

import torch

from lightning_modules.common.random_streams import standard_normal_latents
from lightning_modules.fingerprints.fingerprint import Fingerprint, make_fingerprint
from lightning_modules.fingerprints.layouts import place_key

BITS = 6


class Smooth(torch.nn.Module):
    """A generator whose images follow from their latents through one nonlinear layer: every key can be found."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.nn.Parameter(torch.randn(16, 3 * 16 * 16, generator=generator) / 2, requires_grad=False)
        self.scale = torch.linspace(2.0, 0.5, 16)

    def sample_latents(self, n, seed, start=0):
        return standard_normal_latents(n, 16, seed, start) * self.scale

    def synthesize(self, latents):
        return torch.sigmoid(latents @ self.weight).view(-1, 3, 16, 16)


def smooth_fingerprint(generator: Smooth, sigma: float, **options) -> Fingerprint:
    """A key of `BITS` bits on the axes of least variance."""
    latents = generator.sample_latents(2000, seed=1)
    placed = place_key(lambda: latents.split(500), 16, BITS, -BITS)
    return make_fingerprint(placed, sigma, -BITS, "flat", "hash", "g", **options)
