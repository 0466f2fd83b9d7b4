"""The kinds of generators a checkpoint can hold, and building one from its stored form."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import nn

from lightning_modules.generators.checkpoints.stored import CheckpointError, StoredGenerator

KINDS = {
    "stylegan2": "lightning_modules.generators.stylegan2:StyleGAN2Generator",
    "latent_diffusion": "lightning_modules.generators.latent_diffusion:LatentDiffusionGenerator",
}
"""Where the class of each kind is defined; a checkpoint names a kind of this table and can name no other code."""

LISTED = 8


class CheckpointGenerator(nn.Module):
    """What `load_generator` gives, for type checkers: a generator of the protocol with these attributes besides.

    Attributes:
        latent_dim: length d of a latent vector.
        image_size: height and width of an image in pixels.
        kind: key of `KINDS`.
        arguments: what its class was built with, plain JSON values.
        origin: where the checkpoint comes from.
        report: what was matched, one line for each group of tensors.
    """

    latent_dim: int
    image_size: int
    kind: str
    arguments: dict[str, Any]
    origin: dict[str, str]
    report: tuple[str, ...]

    def sample_latents(self, n: int, seed: int, start: int = 0) -> torch.Tensor:
        """Return latents `(n, d)` float32; row i depends on `(seed, start + i)` alone."""
        raise NotImplementedError

    def synthesize(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents `(n, d)` to images `(n, 3, H, W)`, about [0, 1], not clamped."""
        raise NotImplementedError

    def configure(self, **options: Any) -> Self:
        """Set how images are sampled; a ValueError names the options there are."""
        raise NotImplementedError

    def freeze(self) -> Self:
        """Switch to inference for good."""
        raise NotImplementedError


def build(stored: StoredGenerator) -> CheckpointGenerator:
    """Build a generator, fill it with its tensors and freeze it; every tensor must have its place and its shape.

    Args:
        stored: what a reader gave.

    Returns:
        The generator: float32, frozen, on the CPU, with `kind`, `arguments`, `origin` and `report`.

    Raises:
        CheckpointError: an unknown kind, arguments that describe no such generator, tensors that are missing, left over
            or misshapen, or values that are no finite numbers. Names them.
    """
    file = stored.origin.get("file", "the checkpoint")
    if stored.kind not in KINDS:
        raise CheckpointError(f"{file}: found the kind {stored.kind!r}, expected one of {', '.join(sorted(KINDS))}")
    module, name = KINDS[stored.kind].split(":")
    try:
        network: CheckpointGenerator = getattr(importlib.import_module(module), name)(**stored.arguments)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file}: the arguments describe no {stored.kind} generator: {error}") from error
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in stored.tensors.items()}
    complaints = [
        *_listed("missing", (key for key in expected if key not in found)),
        *_listed("not expected", (key for key in found if key not in expected)),
        *_listed(
            "of another shape",
            (
                f"{key} (found {found[key]}, expected {shape})"
                for key, shape in expected.items()
                if key in found and found[key] != shape
            ),
        ),
        *_listed("not finite", (key for key, value in stored.tensors.items() if not bool(value.isfinite().all()))),
    ]
    if complaints:
        raise CheckpointError(
            f"{file}: found tensors that do not fit a {stored.kind} generator: {'; '.join(complaints)}; the file is "
            "damaged, or of another architecture or version"
        )
    network.load_state_dict(stored.tensors, strict=True)
    network.kind, network.origin, network.report = stored.kind, dict(stored.origin), stored.report
    return network.freeze()


def _listed(what: str, names: Iterable[str]) -> list[str]:
    """One phrase for tensors with the same fault: how many, and the first of them."""
    every = list(names)
    if not every:
        return []
    more = f" and {len(every) - LISTED} more" if len(every) > LISTED else ""
    return [f"{len(every)} {what}: {', '.join(every[:LISTED])}{more}"]
