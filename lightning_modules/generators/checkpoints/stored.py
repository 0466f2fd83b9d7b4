"""A generator as plain data, what every checkpoint reader gives and our own files hold; and building one from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_modules.common.tables import Table


class CheckpointError(ValueError):
    """A checkpoint that cannot be read as asked: names what was found, what was expected and what to do."""


@dataclass(frozen=True)
class StoredGenerator:
    """What to build and the tensors to fill it with; nothing in it can execute anything.

    Attributes:
        kind: which generator class to build, a key of `KINDS`.
        arguments: arguments of that class, plain JSON values.
        tensors: state dict of the built generator, in its own names.
        origin: where it comes from: `format`, `file`, `sha256`, and what else the reader knows.
        report: one line for each group of tensors: what was matched, what was left aside and why.
    """

    kind: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]
    origin: dict[str, str]
    report: tuple[str, ...] = field(default=())


IMAGES = {b"\x89PNG": "PNG image", b"\xff\xd8\xff": "JPEG image", b"GIF8": "GIF image", b"RIFF": "WebP or audio file"}
TORCH_ZIP = b"PK\x03\x04"
LOOKED_AT = 512


def file_type(path: Path) -> str:
    """Name what a file begins like.

    Args:
        path: a file.

    Returns:
        `safetensors`, `torch` (a zip archive), `text` (which old pickles can look like), a phrase such as `PNG image`,
        or `pickle` for all else.
    """
    with path.open("rb") as file:
        start = file.read(LOOKED_AT)
    for magic, name in IMAGES.items():
        if start.startswith(magic):
            return name
    if start.startswith(TORCH_ZIP):
        return "torch"
    if start[8:9] == b"{":
        return "safetensors"
    return "text" if start[:1] != b"\x80" and _is_text(start) else "pickle"


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8", errors="strict" if len(start) < LOOKED_AT else "ignore")
    except UnicodeDecodeError:
        return False
    return any(map(str.isspace, text)) and all(character.isprintable() or character in "\t\n\r" for character in text)


def refuse_other_types(path: Path) -> None:
    """Refuse what downloads leave in the place of a file of weights.

    Raises:
        CheckpointError: no such file, an empty one, a Git LFS pointer, or a web page.
    """
    if not path.is_file():
        raise CheckpointError(f"found no file {path}, expected a checkpoint; check the path")
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise CheckpointError(f"{path.name}: found an empty file, expected a checkpoint; fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path.name}: found a Git LFS pointer, not the file itself; run `git lfs pull` for it")
    if start.lstrip()[:1] == b"<" and start[8:9] != b"{":  # safetensors may begin so, by the length of their header
        raise CheckpointError(f"{path.name}: found a web page, expected a checkpoint; the download failed, repeat it")


KINDS = Table(
    "kind of generator",
    {
        "stylegan2": "lightning_modules.generators.stylegan2:StyleGAN2Generator",
        "latent_diffusion": "lightning_modules.generators.latent_diffusion:LatentDiffusionGenerator",
    },
)
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
    try:
        generator_class = KINDS.load(stored.kind)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from error
    try:
        network: CheckpointGenerator = generator_class(**stored.arguments)
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
