"""Kinds of attacks that have a robustness curve, and names of conditions of earlier versions. Loads no attack."""

from __future__ import annotations

import math
from collections.abc import Iterable

from lightning_modules.attacks.curves import CURVES, Curve


def curve_of(kind: str) -> Curve | None:
    """The robustness curve of a kind of attack: of one that ships, or of an attack in the table; None for any other."""
    if kind in CURVES:
        return CURVES[kind]
    from lightning_modules.attacks.registry import ATTACKS  # needs torch, which the kinds that ship do without

    return ATTACKS.load(kind).curve if kind in ATTACKS else None


def attack_strength(attack: str) -> tuple[str, float] | None:
    """Kind and strength of an attack of a grid: `("noise", 0.05)` of `noise_0.05`; None for any other name.

    Results of today say so in columns of their own; this reads names of earlier versions.
    """
    kind, _, number = attack.rpartition("_")
    try:
        strength = float(number)
    except ValueError:
        return None
    return (kind, strength) if kind and math.isfinite(strength) and curve_of(kind) is not None else None


def in_order(kinds: Iterable[str]) -> list[str]:
    """Kinds in the order shown: those that ship first, the others by name."""
    found = set(kinds)
    return [kind for kind in CURVES if kind in found] + sorted(found - set(CURVES))
