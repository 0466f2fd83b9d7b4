"""Attacks: what may happen to an image on its way from the generator to the one who asks where it came from.

`make_attack("jpeg_50")` or `make_attacks(["paper", "grid-noise"])`; each attack has a face that is differentiable, for
training, and one that does what a file goes through, for evaluation (`base.py`).
"""

from lightning_modules.attacks.base import Attack
from lightning_modules.attacks.registry import make_attack, make_attacks, read_attacks
from lightning_modules.common.random_streams import image_seeds

__all__ = ["Attack", "image_seeds", "make_attack", "make_attacks", "read_attacks"]
