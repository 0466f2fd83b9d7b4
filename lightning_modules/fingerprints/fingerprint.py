"""The fingerprint: where a key lies in the latents of one frozen generator, and how strongly it is set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from lightning_modules.fingerprints.layouts import PlacedAxes
from lightning_modules.fingerprints.settings import PRIORS
from lightning_modules.generators.checkpoints.own_file import content_hash

DESCRIPTIVE = ("generator_name", "sampling")
"""Fields that do not decide where keys lie."""


@dataclass(frozen=True)
class Fingerprint:
    """What embedding and decoding share (Nie et al. 2023, equation 2 and section 3.1).

    A latent with key phi is `mean + (its part outside the key axes) + sigma * sum over copies of phi . key_axes`. In
    the paper phi is 0 or 1: the key of zeros marks nothing, and all others move images to one side, off what the
    generator draws. A centred fingerprint takes phi - 1/2 instead: bits lie as far apart, at half the squared distance
    from the mean, so that images keep more of their quality; every key marks.

    Tensors are float32.
    """

    mean: Tensor = field(repr=False)  # (d,), mean latent
    key_axes: Tensor = field(repr=False)  # (copies, m, d), orthonormal rows
    key_deviation: Tensor = field(repr=False)  # (copies, m), natural standard deviation along them
    other_axes: Tensor = field(repr=False)  # (k, d), the leading axes outside the key; all where k + copies m = d
    other_deviation: Tensor = field(repr=False)  # (k,)
    rest_deviation: float  # root mean square deviation along the axes outside the key that are not kept; 0 if all are
    sigma: float  # strength of the key: the distance between a bit's two values along its axis
    centred: bool  # whether these lie on both sides of the mean, or at the mean and beside it as in the paper
    shift: int  # first key axis, counted from the axis of largest variance
    layout: str  # see `layouts`
    latent_prior: str  # where the other coordinates come from: `projected` samples of the generator, or `gaussian`
    noise: str  # noise mode of a StyleGAN2 shared by embedding and attribution; empty for other generators
    generator: str  # content hash of the generator it belongs to
    generator_name: str  # its file, or the name of a bundled source
    sampling: dict[str, Any] = field(default_factory=dict)  # how the latents were sampled that the axes were fitted to

    @property
    def id(self) -> str:
        """SHA-256 of all that decides where keys lie and how they are read; equal on every device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        plain = {name: value for name, value in vars(self).items() if name not in (*tensors, *DESCRIPTIVE)}
        return sha256(f"{content_hash(tensors)} {sorted(plain.items())!r}".encode()).hexdigest()

    @property
    def bits(self) -> int:
        """Length m of a key."""
        return self.key_axes.shape[1]

    @property
    def latent_dim(self) -> int:
        """Length d of a latent."""
        return len(self.mean)

    @property
    def centre(self) -> float:
        """The value of a bit that adds nothing to a latent."""
        return 0.5 if self.centred else 0.0

    def to(self, device: torch.device | str) -> Fingerprint:
        """The same on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Fingerprint(**{**vars(self), **moved})

    def without_key(self, latents: Tensor) -> Tensor:
        """Replace the part of latents `(n, d)` along the key axes by the mean's; differentiable."""
        axes = self.key_axes.flatten(0, 1)  # (copies m, d)
        return latents - (latents - self.mean) @ axes.T @ axes

    def embed(self, latents: Tensor, keys: Tensor) -> Tensor:
        """Set keys in latents `(n, d)`, whose own part along the key axes is dropped; differentiable in both.

        Keys are `(n, m)` or `(1, m)`: bool, or numbers in [0, 1] while a key is being searched for.

        Raises:
            ValueError: latents or keys of another width.
        """
        if latents.shape[-1] != self.latent_dim or keys.shape[-1] != self.bits:
            raise ValueError(
                f"found latents {tuple(latents.shape)} and keys {tuple(keys.shape)}, expected {self.latent_dim} and "
                f"{self.bits} columns; the fingerprint belongs to another generator or the keys to another fingerprint"
            )
        return self.without_key(latents) + self.offset(keys.to(latents.dtype))

    def offset(self, keys: Tensor) -> Tensor:
        """What keys `(n, m)`, numbers in [0, 1], add to latents, `(n, d)`; differentiable."""
        return self.sigma * (keys - self.centre) @ self.key_axes.sum(dim=0)

    def gaussian_latents(self, normals: Tensor) -> Tensor:
        """Latents `(n, d)` of the Gaussian prior without key, `alpha ~ N(0, s^2)` along the axes outside the key.

        They follow from independent standard normal values `(n, d)`, as `standard_normal_latents` draws them.
        """
        along = normals @ self.other_axes.T  # standard normal coordinates, for orthonormal axes
        rest = self.without_key(self.mean + normals) - self.mean - along @ self.other_axes
        return self.mean + (along * self.other_deviation) @ self.other_axes + self.rest_deviation * rest


def make_fingerprint(
    placed: PlacedAxes,
    sigma: float,
    shift: int,
    layout: str,
    generator: str,
    generator_name: str,
    latent_prior: str = "projected",
    noise: str = "",
    kept: int = 2048,
    centred: bool = False,
    sampling: Mapping[str, Any] | None = None,
) -> Fingerprint:
    """Bring fitted axes into the form that is stored; arguments are those of `place_key` and `Fingerprint`.

    Of the axes outside the key so many are `kept` one by one, of the others only the mean variance.

    Raises:
        ValueError: a strength of zero or less, or an unknown prior.
    """
    if not sigma > 0.0:
        raise ValueError(f"found sigma {sigma}, expected a strength above 0")
    if latent_prior not in PRIORS:
        raise ValueError(f"found latent prior {latent_prior!r}, expected {' or '.join(PRIORS)}")
    rest = placed.other_deviation[kept:]
    return Fingerprint(
        mean=placed.mean.float(),
        key_axes=placed.key_axes.float().contiguous(),
        key_deviation=placed.key_deviation.float().contiguous(),
        other_axes=placed.other_axes[:kept].float().contiguous(),
        other_deviation=placed.other_deviation[:kept].float().contiguous(),
        rest_deviation=float(rest.square().mean().sqrt()) if len(rest) else 0.0,
        sigma=float(sigma),
        centred=centred,
        shift=shift,
        layout=layout,
        latent_prior=latent_prior,
        noise=noise,
        generator=generator,
        generator_name=generator_name,
        sampling=dict(sampling or {}),
    )
