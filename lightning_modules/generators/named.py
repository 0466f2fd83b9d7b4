"""Any frozen generator by one name: a checkpoint's path, a bundled source, or a repository of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_modules.generators.bundled import bundled_sources, load_bundled, read_manifest
from lightning_modules.generators.checkpoints.load import load_generator


def load_named(name: str, kind: str, options: dict[str, Any]) -> Any:
    """Load a generator by the path of its checkpoint, the name of a bundled source, or a repository of the hub.

    Raises:
        ValueError: as `load_generator`; or options or a kind for a bundled source that has none.
    """
    small = not Path(name).exists() and name in bundled_sources() and "arguments" in read_manifest()[name]
    if not small:
        return load_generator(name, kind, **options)
    if options or kind != "auto":
        raise ValueError(f"found options or a kind for the bundled source {name}, which has none; leave them out")
    return load_bundled(name)
