"""A generator as plain data: what every checkpoint reader gives, and what our own files hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor


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
