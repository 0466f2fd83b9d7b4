"""A generator as plain data: what every checkpoint reader gives, and what our own files hold."""

from __future__ import annotations

from dataclasses import dataclass, field
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
