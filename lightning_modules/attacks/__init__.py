"""Attacks: what may happen to an image between its generator and whoever asks where it came from.

`make_attack("jpeg_50")` or `make_attacks(["paper", "grid-noise"])`; each attack has an exact 8-bit implementation, for
evaluation, and a differentiable one, for training, that share per-image random parameters (`base.py`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.attacks.base import Attack
    from lightning_modules.attacks.registry import make_attack, make_attacks
    from lightning_modules.common.random_streams import image_seeds

__all__ = ["Attack", "image_seeds", "make_attack", "make_attacks"]

_DEFINED_IN = {
    "Attack": "lightning_modules.attacks.base",
    "image_seeds": "lightning_modules.common.random_streams",
    "make_attack": "lightning_modules.attacks.registry",
    "make_attacks": "lightning_modules.attacks.registry",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: `curves.py` is read by programs that need no torch."""
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_DEFINED_IN[name]), name)
