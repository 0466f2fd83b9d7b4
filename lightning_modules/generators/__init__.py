"""Generators: the protocol, the networks of the bundled sources, readers of checkpoints, and the writing of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.generators.checkpoints.load import load_generator

__all__ = ["load_generator"]


def __getattr__(name: str) -> Any:  # the loader is imported when it is asked for: most users of this package never do
    if name == "load_generator":
        from lightning_modules.generators.checkpoints.load import load_generator

        return load_generator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
