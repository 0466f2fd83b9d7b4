"""Fingerprinted images by number: latent, key and image of sample i follow from the seed and i alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_modules.common.random_streams import seeded_keys, standard_normal_latents
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.generators.protocol import Generator


@dataclass(frozen=True)
class MarkedBatch:
    """Fingerprinted samples."""

    images: Tensor  # (n, 3, H, W), about [0, 1], as the generator gives them
    keys: Tensor  # bool (n, m)
    latents: Tensor  # (n, d) before the key was set
    alpha: Tensor  # (n, k), their coordinates outside the key in standard deviations


@dataclass(frozen=True)
class MarkedPair:
    """One latent, drawn without and with a key; images are float `(3, H, W)` in [0, 1]."""

    index: int  # position in the test split
    unmarked: Tensor
    marked: Tensor
    attacked: dict[str, Tensor] = field(default_factory=dict)  # the marked image after each attack, by its name


class MarkedImages:
    """Makes fingerprinted images of one generator; the seed is that of latents and keys.

    With a bank of natural latents `(b, d)`, for generators that sample slowly, sample i has row i mod b of it; an empty
    one is none.
    """

    def __init__(
        self, generator: Generator, fingerprint: Fingerprint, seed: int = 0, bank: Tensor | None = None
    ) -> None:
        self.generator, self.fingerprint, self.seed, self.bank = generator, fingerprint, seed, bank

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
        if self.bank is not None and len(self.bank):
            return self.bank[samples.to(self.bank.device) % len(self.bank)]
        latents = [self.generator.sample_latents(stop - start, self.seed, start) for start, stop in runs(samples)]
        return torch.cat(latents)


def runs(numbers: Tensor) -> list[tuple[int, int]]:
    """Consecutive stretches `(start, stop)` of numbers `(n,)`, n at least 1, in their order."""
    numbers = numbers.cpu()
    stretches = torch.tensor_split(numbers, (numbers.diff() != 1).nonzero()[:, 0] + 1)
    return [(int(some[0]), int(some[-1]) + 1) for some in stretches]
