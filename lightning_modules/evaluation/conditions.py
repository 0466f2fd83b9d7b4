"""Conditions of an evaluation: what happens to its images before they are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_modules.attacks import Attack, image_seeds, make_attacks

CLEAN = "clean"
AttackSpecs = str | Sequence[str | Mapping[str, Any]]
"""As `make_attacks` takes them: a name, the path of a YAML file, or a list of names and mappings."""


@dataclass(frozen=True)
class Condition:
    """An attack on 8-bit images; the first condition of every evaluation is none, `clean`.

    Attributes:
        name: For people: rows, tables and log keys; nothing is read out of it.
        kind: Kind of the attack (``attacks.ATTACKS``), or ``clean``.
        strength: Where the attack lies on its kind's robustness curve, in the curve's unit; None where on none.
        seed: Of its random parameters.
        attack: The attack itself; None for ``clean``.
    """

    name: str
    kind: str
    strength: float | None
    seed: int
    attack: Attack | None = None

    def apply(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Attack 8-bit images `(n, 3, H, W)` with the parameters of their sample numbers `(n,)`."""
        return images if self.attack is None else self.attack.real(images, image_seeds(self.seed, numbers))

    @property
    def prefix(self) -> str:
        """Beginning of the names of what is measured under it where the clean images need no name."""
        return "" if self.kind == CLEAN else f"{self.name}/"

    @property
    def of_grid(self) -> bool:
        """Whether this is one of the strengths of its kind's grid, and no attack of a preset that is as strong."""
        return self.strength is not None and self.name == f"{self.kind}_{self.strength:g}"

    def to_json(self) -> dict[str, Any]:
        """The condition as data."""
        return {"name": self.name, "kind": self.kind, "strength": self.strength, "seed": self.seed}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Condition:
        """The inverse of `to_json`, for tables and figures: it cannot be applied."""
        return cls(entry["name"], entry["kind"], entry["strength"], entry["seed"])


def make_conditions(specs: AttackSpecs | None, seed: int) -> list[Condition]:
    """Clean images first, then each attack once; `seed` is theirs unless an attack names its own.

    Raises:
        ValueError: an attack there is not, or one called `clean`; the message suggests the nearest.
        FileNotFoundError: no such file of attacks.
    """
    found = [Condition(CLEAN, CLEAN, None, seed)]
    for name, attack in make_attacks(specs or []).items():
        if name == CLEAN:
            raise ValueError(f"found an attack called {CLEAN!r}, the name of the unattacked images; name it otherwise")
        if attack.kind != "identity":
            own = seed if attack.seed is None else attack.seed
            found.append(Condition(name, attack.kind, attack.curve_strength, own, attack))
    return found


def changed_images(attacked: Tensor, images: Tensor) -> Tensor:
    """Which images an attack has changed in at least one pixel, bool `(n,)`."""
    return (attacked != images).flatten(1).any(dim=1)
