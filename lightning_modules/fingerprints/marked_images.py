"""Fingerprinted images by number: latent, key and image of sample i follow from the seed and i alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.common.random_streams import seeded_keys, standard_normal_latents
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.generators.protocol import Generator


@dataclass(frozen=True)
class MarkedBatch:
    """Fingerprinted samples.

    Attributes:
        images: `(n, 3, H, W)`, about [0, 1], as the generator gives them.
        keys: bool `(n, m)`.
        latents: `(n, d)` before the key was set.
        alpha: `(n, k)`, their coordinates outside the key in standard deviations.
    """

    images: Tensor
    keys: Tensor
    latents: Tensor
    alpha: Tensor


class MarkedImages:
    """Makes fingerprinted images of one generator; the seed is that of latents and keys.

    With a bank of natural latents `(b, d)`, for generators that sample slowly, sample i has row i mod b of it.
    """

    def __init__(
        self, generator: Generator, fingerprint: Fingerprint, seed: int = 0, bank: Tensor | None = None
    ) -> None:
        self.generator = generator
        self.fingerprint = fingerprint
        self.seed = seed
        self.bank = bank

    @torch.no_grad()
    def make(self, samples: Tensor) -> MarkedBatch:
        """Make the images of sample numbers int64 `(n,)`."""
        device = self.fingerprint.mean.device
        latents = self._latents(samples).to(device)
        keys = torch.cat([seeded_keys(1, self.fingerprint.bits, self.seed, int(i)) for i in samples]).to(device)
        marked = self.fingerprint.embed(latents, keys)
        along = (latents - self.fingerprint.mean) @ self.fingerprint.other_axes.T
        alpha = along / self.fingerprint.other_deviation.clamp_min(1e-6)
        return MarkedBatch(self.generator.synthesize(marked), keys, latents, alpha)

    def _latents(self, samples: Tensor) -> Tensor:
        if self.fingerprint.latent_prior == "gaussian":
            dim = self.fingerprint.latent_dim
            normals = torch.cat([standard_normal_latents(1, dim, self.seed, int(i)) for i in samples])
            return self.fingerprint.gaussian_latents(normals.to(self.fingerprint.mean))
        if self.bank is not None:
            return self.bank[samples.to(self.bank.device) % len(self.bank)]
        return torch.cat(
            [self.generator.sample_latents(stop - start, self.seed, start) for start, stop in runs(samples)]
        )


def runs(numbers: Tensor) -> list[tuple[int, int]]:
    """Consecutive stretches `(start, stop)` of numbers `(n,)`, in their order."""
    found: list[tuple[int, int]] = []
    for number in numbers.tolist():
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found
