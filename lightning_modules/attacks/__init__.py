"""Attacks: what may happen to an image between its generator and whoever asks where it came from.

`make_attack("jpeg_50")` or `make_attacks(["paper", "grid-noise"])`; each attack has an exact 8-bit implementation, for
evaluation, and a differentiable one, for training, that share per-image random parameters (`base.py`).
"""

from lightning_modules.attacks.base import Attack
from lightning_modules.attacks.registry import make_attack, make_attacks
from lightning_modules.common.random_streams import image_seeds

__all__ = ["Attack", "image_seeds", "make_attack", "make_attacks"]
