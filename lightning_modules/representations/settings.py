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


@dataclass(frozen=True)
class AugmentationSettings:
    """What training images meet before they are embedded, on the device, by differentiable attacks.

    Args:
        attack: A name or a mapping (``lightning_modules.attacks``), ``paper-scaled-mixture`` for one; None for none.
            Several in a list follow each other, each drawn by itself; a mapping may have a ``probability`` of its own.
        probability: Share of the images that are attacked, drawn anew in each epoch.
        strength: Factor on the attacks' parameters, 0 (does nothing) to 1 (as specified).
    """

    attack: str | dict[str, Any] | list[str | dict[str, Any]] | None = None
    probability: float = 0.5
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        numbers = {"probability": self.probability, "strength": self.strength}
        numbers |= {f"attack[{place}].probability": found for place, (_, found) in enumerate(self.steps())}
        for name, number in numbers.items():
            if not 0.0 <= number <= 1.0:
                raise ValueError(f"found augmentation.{name} {number}, expected 0 to 1")

    def steps(self) -> list[tuple[str | dict[str, Any], float]]:
        """The attacks in their order, each with its probability."""
        listed = self.attack if isinstance(self.attack, list) else [] if self.attack is None else [self.attack]
        found: list[tuple[str | dict[str, Any], float]] = []
        for each in listed:
            own = dict(each) if isinstance(each, Mapping) else {}
            probability = float(own.pop("probability", self.probability))
            found.append((own or each, probability))
        return found


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
