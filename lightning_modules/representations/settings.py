"""Settings of the manifold, and those of earlier versions under today's names. Imports nothing slow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ManifoldSettings:
    """Where the manifold of reals is kept, and how it is searched.

    Args:
        dir: Folder of all manifolds; None for the data set's cache folder.
        search_memory_mib: Bound on the working memory of the nearest-neighbour search.
        carry_mib: Manifolds up to this size travel in the checkpoint; larger ones are named by hash and path.
    """

    dir: str | None = None
    search_memory_mib: int = 512
    carry_mib: int = 64


_MANIFOLD = {"manifold_dir": "dir", "search_memory_mib": "search_memory_mib", "carry_manifold_mib": "carry_mib"}


def current_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an Attributor under today's names; the one place that knows their earlier ones.

    Checkpoints and run folders up to version 0.1 call the representation `view`, and hold the settings of the manifold
    beside the others. Those of today are returned as they are.
    """
    current = {name: value for name, value in settings.items() if name not in _MANIFOLD and name != "view"}
    if "view" in settings:
        current["representation"] = settings["view"]
    if moved := {new: settings[old] for old, new in _MANIFOLD.items() if old in settings}:
        current["manifold"] = {**asdict(ManifoldSettings()), **settings.get("manifold", {}), **moved}
    return current
