"""Marked images: of one user (with the noise that a fingerprint names), or by sample number for an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_modules.common.random_streams import seeded_keys, standard_normal_latents
from lightning_modules.fingerprints.fingerprint import Fingerprint, FingerprintError
from lightning_modules.generators.protocol import Generator


class MarkedGenerator:
    """A frozen generator whose latents carry one user's key (Nie et al. 2023, equation 2); follows `Generator`.

    The key, bool `(bits,)`, is kept as plain values in a private attribute: other processes get it through the pipe
    over which they get the generator, not in shared memory, a file or an argument, and no hash of weights includes it.
    A hash would give a short key away to whoever tries all of them. The user's id is for records.

    Raises:
        ValueError: a key of another length or type, a generator whose latents have another length, or one that adds
            other noise than the fingerprint was made for.
    """

    def __init__(self, unmarked: Generator, fingerprint: Fingerprint, key: Tensor, user: str) -> None:
        if key.shape != (fingerprint.bits,) or key.dtype != torch.bool:
            raise ValueError(
                f"found a key of shape {tuple(key.shape)} and type {key.dtype}, expected {fingerprint.bits} bits as "
                "bool; the key belongs to another fingerprint"
            )
        if unmarked.latent_dim != fingerprint.latent_dim:
            raise ValueError(
                f"found a generator of latents of length {unmarked.latent_dim}, expected {fingerprint.latent_dim} as "
                "the fingerprint has; use the generator that it was made for"
            )
        check_same_noise(unmarked, fingerprint)
        self.unmarked, self.fingerprint, self.user = unmarked, fingerprint, user
        self.latent_dim, self.image_size = unmarked.latent_dim, unmarked.image_size
        self._key = tuple(bool(bit) for bit in key)

    @property
    def reproducible(self) -> bool:
        """Whether equal latents give equal images, as the generator says of itself."""
        return bool(getattr(self.unmarked, "reproducible", True))

    @property
    def mark(self) -> dict[str, Any]:
        """What is in the images, as plain values without the key."""
        public = ("id", "bits", "sigma", "centred", "layout", "latent_prior")
        return {"user": self.user} | {name: getattr(self.fingerprint, name) for name in public}

    def sample_latents(self, n: int, seed: int, start: int = 0) -> Tensor:
        """Return latents `(n, d)` that carry the key; row i depends on `(seed, start + i)` and the key alone.

        The other coordinates come from where the fingerprint's prior says: the generator's own latents of that seed
        (`projected`), or a Gaussian (`gaussian`).
        """
        mean = self.fingerprint.mean
        if self.fingerprint.latent_prior == "gaussian":
            normals = standard_normal_latents(n, self.latent_dim, seed, start)
            latents = self.fingerprint.gaussian_latents(normals.to(mean))
        else:
            latents = self.unmarked.sample_latents(n, seed, start).to(mean)
        return self.fingerprint.embed(latents, torch.tensor([self._key], device=mean.device))

    def synthesize(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)`, taken as they are, to images `(n, 3, H, W)`, about [0, 1], as the generator does."""
        return self.unmarked.synthesize(latents)


def check_same_noise(generator: Any, fingerprint: Fingerprint) -> None:
    """Refuse, by a FingerprintError, a generator whose noise is not the fingerprint's."""
    noise = str(getattr(generator, "noise", ""))
    if noise != fingerprint.noise:
        raise FingerprintError(
            f"found a generator with noise {noise!r}, expected {fingerprint.noise!r} as in the fingerprint, since "
            f"keys are searched for with that noise; leave the option out or set noise to {fingerprint.noise!r}"
        )


def take_noise(generator: Any, fingerprint: Fingerprint, options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Give a generator, in place, the fingerprint's noise where its options name none; options to load it with that.

    Raises:
        FingerprintError: the options name another noise.
    """
    given = None if options is None else dict(options)
    if fingerprint.noise not in ("", getattr(generator, "noise", "")) and "noise" not in (given or {}):
        generator.configure(noise=fingerprint.noise)
        given = {**(given or {}), "noise": fingerprint.noise}
    check_same_noise(generator, fingerprint)
    return given


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
    wrong_bits: dict[str, list[int]] = field(default_factory=dict)  # positions, by the condition; `clean` is one


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
