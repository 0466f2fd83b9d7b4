"""A generator as plain data, what every checkpoint reader gives and our own files hold; and building one from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from lightning_modules.common.tables import Table


class CheckpointError(ValueError):
    """A checkpoint that cannot be read as asked: names what was found, what was expected and what to do."""


@dataclass(frozen=True)
class StoredGenerator:
    """What to build and the tensors to fill it with; nothing in it can execute anything."""

    kind: str  # a key of `KINDS`
    arguments: dict[str, Any]  # of that class, plain JSON values
    tensors: dict[str, Tensor]  # state dict of the built generator, in its own names
    origin: dict[str, str]  # `format`, `file`, `sha256`, and what else the reader knows
    report: tuple[str, ...] = field(default=())  # what was matched, what was left aside and why, by group of tensors


IMAGES = {b"\x89PNG": "PNG image", b"\xff\xd8\xff": "JPEG image", b"GIF8": "GIF image", b"RIFF": "WebP or audio file"}
TORCH_ZIP = b"PK\x03\x04"
LOOKED_AT = 512


def file_type(path: Path) -> str:
    """Name what a file begins like.

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
    """Refuse what downloads leave in the place of a file of weights: nothing, a Git LFS pointer, or a web page."""
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


class CheckpointGenerator(nn.Module):
    """What `load_generator` gives, for type checkers: a generator of the protocol with these attributes besides."""

    latent_dim: int
    image_size: int
    kind: str  # a key of `KINDS`
    arguments: dict[str, Any]  # what its class was built with, plain JSON values
    origin: dict[str, str]  # where the checkpoint comes from
    report: tuple[str, ...]  # what was matched, one line for each group of tensors
    sample_latents: Callable[..., Tensor]  # as of `generators.protocol.Generator`
    synthesize: Callable[[Tensor], Tensor]
    configure: Callable[..., Self]  # sets how images are sampled; a ValueError names the options there are
    freeze: Callable[[], Self]


def build(stored: StoredGenerator) -> CheckpointGenerator:
    """Build a generator, fill it with its tensors and freeze it; every tensor must have its place and its shape.

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
    both = [key for key in expected if key in found]
    faults = {
        "missing": [key for key in expected if key not in found],
        "not expected": [key for key in found if key not in expected],
        "of another shape": [
            f"{key} (found {found[key]}, expected {expected[key]})" for key in both if found[key] != expected[key]
        ],
        "not finite": [key for key, value in stored.tensors.items() if not bool(value.isfinite().all())],
    }
    complaints = "; ".join(f"{len(names)} {what}: {first_of(names)}" for what, names in faults.items() if names)
    if complaints:
        raise CheckpointError(
            f"{file}: found tensors that do not fit a {stored.kind} generator: {complaints}; the file is damaged, or "
            "of another architecture or version"
        )
    network.load_state_dict(stored.tensors, strict=True)
    network.kind, network.origin, network.report = stored.kind, dict(stored.origin), stored.report
    return network.freeze()


def first_of(names: Sequence[str], most: int = 8) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
