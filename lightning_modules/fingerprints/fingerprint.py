"""The fingerprint: where a key lies in the latents of one frozen generator, and how strongly it is set."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from lightning_modules.common.files import write_bytes
from lightning_modules.common.shipped import find_trained, trained_hint
from lightning_modules.common.weights import content_hash
from lightning_modules.fingerprints.layouts import PlacedAxes
from lightning_modules.fingerprints.settings import PRIORS

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
        return self._with(lambda tensor: tensor.to(device))

    def clone(self) -> Fingerprint:
        """The same with tensors of its own."""
        return self._with(torch.clone)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Fingerprint:
        changed = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Fingerprint(**{**vars(self), **changed})

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

    def latents(self, alpha: Tensor, keys: Tensor) -> Tensor:
        """Latents `(n, d)` of coordinates outside the key, in deviations `(n, k)`, and of keys `(n, m)` in [0, 1].

        Differentiable in both.
        """
        return self.mean + (alpha * self.other_deviation) @ self.other_axes + self.offset(keys)

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
    """Bring fitted axes into the form that is stored.

    Args:
        placed: from `place_key`, which was given `shift` and `layout`.
        sigma: strength of the key, above 0, in units of the latent.
        shift: first axis of the key.
        layout: how bits lie on axes.
        generator: content hash of the generator.
        generator_name: its file, or the name of a bundled source.
        latent_prior: one of `PRIORS`.
        noise: noise mode shared by embedding and attribution.
        kept: most axes outside the key to keep one by one; of the others only the mean variance is kept.
        centred: whether a bit's two values lie on both sides of the mean.
        sampling: how the generator sampled the latents that the axes were fitted to, plain values.

    Raises:
        ValueError: a strength of zero or less, or an unknown prior.
    """
    if not sigma > 0.0:
        raise ValueError(f"found sigma {sigma}, expected a strength above 0")
    if latent_prior not in PRIORS:
        raise ValueError(f"found latent prior {latent_prior!r}, expected {' or '.join(PRIORS)}")
    rest = placed.other_deviation[kept:]
    rest_count = len(rest) + placed.left
    rest_variance = float(rest.square().sum()) + placed.left_variance
    return Fingerprint(
        mean=placed.mean.float(),
        key_axes=placed.key_axes.float().contiguous(),
        key_deviation=placed.key_deviation.float().contiguous(),
        other_axes=placed.other_axes[:kept].float().contiguous(),
        other_deviation=placed.other_deviation[:kept].float().contiguous(),
        rest_deviation=math.sqrt(rest_variance / rest_count) if rest_count else 0.0,
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


FORMAT = "manifold-fingerprints fingerprint"
VERSION = 3
_KINDS = get_type_hints(Fingerprint)
TENSORS = [name for name, kind in _KINDS.items() if kind is Tensor]
PLAIN = {name: get_origin(kind) or kind for name, kind in _KINDS.items() if kind is not Tensor}
"""What a file holds: the fields of a fingerprint, with the types of the plain ones. Others need a new VERSION."""


class FingerprintError(ValueError):
    """A fingerprint or registry that cannot be used: names what was found, what was expected and what to do."""


def write_fingerprint(fingerprint: Fingerprint, path: Path, private: bool = False) -> None:
    """Write a fingerprint, atomically; one of secret axes is `private`, for its owner alone to read.

    It holds no key: where keys lie, not which there are.

    Raises:
        FingerprintError: a file name of another ending.
    """
    if path.suffix != ".safetensors":
        raise FingerprintError(f"found the file name {path.name!r}, expected one that ends in .safetensors")
    plain = {name: getattr(fingerprint, name) for name in PLAIN}
    manifest = json.dumps({"format": FORMAT, "version": VERSION, **plain}, sort_keys=True)
    tensors = {name: getattr(fingerprint, name).detach().cpu().contiguous() for name in TENSORS}
    write_bytes(path, to_safetensors(tensors, metadata={"manifest": manifest}), private)


FILE_NAME = "fingerprint.safetensors"


def find_fingerprint(name: str | Path) -> Path:
    """The file that a name means: a file, a folder that holds one, or a fingerprint that ships; it may not be there."""
    path = Path(find_trained(str(name)))
    return path / FILE_NAME if path.is_dir() else path


def read_fingerprint(path: Path, generator: str | None = None) -> Fingerprint:
    """Read a fingerprint that `write_fingerprint` wrote, for the generator of that content hash where one is given.

    Raises:
        FingerprintError: no such file, damaged, of a newer version, or made for another generator.
    """
    if not path.is_file():
        raise FingerprintError(
            f"found no file {path}, expected a fingerprint: the {FILE_NAME} of a training, its run folder, or the name "
            f"of one that ships; {trained_hint(path.name if path.name != FILE_NAME else path.parent.name)}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            manifest: Any = json.loads((file.metadata() or {}).get("manifest", "null"))
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FingerprintError(f"{path.name}: found a truncated or damaged file ({error}); restore it") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise FingerprintError(f"{path.name}: found a safetensors file that is no fingerprint")
    if manifest.get("version") != VERSION:
        raise FingerprintError(
            f"{path.name}: found format version {manifest.get('version')}, expected {VERSION}; use the version of this "
            "project that wrote it, or make the fingerprint again"
        )
    missing = [name for name in TENSORS if name not in tensors]
    missing += [name for name, kind in PLAIN.items() if not isinstance(manifest.get(name), kind)]
    if missing:
        raise FingerprintError(f"{path.name}: found no {', '.join(missing)}; the file is damaged, restore it")
    fingerprint = Fingerprint(**tensors, **{name: manifest[name] for name in PLAIN})
    _check_shapes(fingerprint, path.name)
    if generator is not None and fingerprint.generator != generator:
        raise FingerprintError(
            f"{path.name}: found a fingerprint of generator {fingerprint.generator_name} "
            f"({fingerprint.generator[:12]}), expected one of the generator given ({generator[:12]}); keys can only be "
            "read with the generator that carries them"
        )
    return fingerprint


def _check_shapes(fingerprint: Fingerprint, file: str) -> None:
    axes, dim = fingerprint.key_axes, fingerprint.latent_dim
    fits = (
        axes.ndim == 3
        and axes.shape[2] == dim
        and fingerprint.key_deviation.shape == axes.shape[:2]
        and fingerprint.other_axes.shape == (len(fingerprint.other_deviation), dim)
    )
    if not fits:
        raise FingerprintError(f"{file}: found axes of shapes that do not go together; the file is damaged, restore it")
    rows = axes.flatten(0, 1)
    if not torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-4):
        raise FingerprintError(f"{file}: found key axes that are not orthonormal; the file is damaged, restore it")
