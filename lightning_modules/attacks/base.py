"""The contract of every attack: an exact 8-bit and a differentiable implementation, random parameters, a strength."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.attacks.curves import Curve
from lightning_modules.common.images import to_uint8

MARGIN = 0.02  # how far beyond [0, 1] an image may reach: 5 grey levels of overshoot, far less than [-1, 1] images do
_PIECE = 2**17  # values that `real` works on at once: in float64 they still lie in the processor's cache

Spec = dict[str, Any]
"""An attack as YAML writes it: `kind` and the arguments of its class."""


class Attack(ABC):
    """Something that happens to an image, with parameters that the image's own seed draws.

    Two implementations share these parameters. Both take images float32 `(n, 3, H, W)`, RGB, in [0, 1], and seeds int64
    `(n,)`, one per image (`image_seeds`), and give float32 images of the same shape on the same device. They use the
    same parameters and the same noise for the same seed, whatever the batch, its order, the rank or the device.

    - `real`, also called by `attack(images, seeds)`: rounds to 8 bits, attacks, rounds to 8 bits, as saved files do;
      computed on the CPU, in float64 and through the real codec, one image independent of the others: the same bytes
      whatever the batch. Carries no gradient. For evaluation.
    - `differentiable`: stays on the device in float32, without rounding; gradients reach the images. Its last bits
      may change with the batch, as those of a convolution do. For training and inside an inversion.

    Attributes:
        kind: name of the class in the table of attacks.
        presets: its options in the presets that it is part of.
        curve: its robustness curve; None for an attack without one number as its strength.
        name: what it was asked for by (`jpeg_50`, `paper-blur`); names rows and log keys.
        strength: factor on the parameters as specified (`at_strength`).
        seed: of its random parameters in an evaluation; None for the experiment's.
        curve_strength: the strength where it lies on its kind's curve; None where it lies elsewhere.
    """

    kind: ClassVar[str]
    presets: ClassVar[Mapping[str, Spec]] = {}
    curve: ClassVar[Curve | None] = None

    def __init__(self) -> None:
        self.name = self.kind
        self.strength = 1.0
        self.seed: int | None = None
        self.curve_strength: float | None = None

    @classmethod
    def from_options(cls, options: Spec, make: Callable[[str | Mapping[str, Any]], Attack]) -> Self:
        """Make the attack from the options that YAML gives; `make` makes those it consists of."""
        return cls(**options)

    def __call__(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Attack as a saved file is attacked: the same as `real`."""
        return self.real(images, seeds)

    def real(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Attack 8-bit images and give what a saved 8-bit file holds: multiples of 1/255.

        Raises:
            ValueError: images or seeds that break the contract of the class.
        """
        keys = _checked(images, seeds)
        levels = to_uint8(images).cpu()
        several = max(1, _PIECE // max(1, levels[:1].numel()))
        pieces = [
            self.attack_levels(levels[start : start + several], keys[start : start + several])
            for start in range(0, len(levels), several)
        ]
        attacked = pieces[0] if len(pieces) == 1 else torch.cat([levels[:0], *pieces])
        return attacked.to(images.device).float().div_(255.0)

    def differentiable(self, images: Tensor, seeds: Tensor) -> Tensor:
        """Attack on the device, with gradients; in float32 even where autocast is on.

        Raises:
            ValueError: images or seeds that break the contract of the class.
        """
        keys = _checked(images, seeds)
        if not len(keys):
            return images
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would round coarser than 8 bits do
            return self.attack_smoothly(images, keys)

    @abstractmethod
    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give the parameters that images of seeds `(n,)` meet, each `(n,)`; `size` is their shorter side in pixels."""

    def at_strength(self, strength: float) -> Self:
        """Give this attack with its parameters scaled, for a curriculum: 1 as it is, 0 does nothing.

        Scaling is relative to the attack as it stands; parameters come from the same draws.

        Raises:
            ValueError: a strength outside [0, 1].
        """
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"found an attack strength of {strength}, expected 0 (does nothing) to 1 (as specified)")
        weaker = copy(self)
        weaker.strength = self.strength * float(strength)
        return weaker

    def attack_levels(self, levels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Attack checked images uint8 `(n, 3, H, W)` on the CPU; an attack that needs no floats overrides it."""
        return to_uint8(self.attack_pixels(levels.double().div_(255.0), seeds))

    @abstractmethod
    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Attack checked images float64 `(n, 3, H, W)` on the CPU; may leave [0, 1], the caller rounds and clamps."""

    @abstractmethod
    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Attack checked images float32 `(n, 3, H, W)` on their device, with gradients; n at least 1."""


def _checked(images: Tensor, seeds: Tensor) -> NDArray[np.int64]:
    """Refuse what the attacks would silently spoil; return the seeds as numpy."""
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.float32:
        raise ValueError(f"expected images float32 (n, 3, H, W), found {images.dtype} {tuple(images.shape)}")
    if seeds.ndim != 1 or seeds.dtype != torch.int64 or len(seeds) != len(images):
        raise ValueError(
            f"expected one int64 seed per image, ({len(images)},), found {seeds.dtype} {tuple(seeds.shape)}: "
            "make them with image_seeds(experiment_seed, sample_index)"
        )
    if images.numel():
        low, high = (float(bound) for bound in torch.aminmax(images.detach()))
        if not (low >= -MARGIN and high <= 1.0 + MARGIN):  # written so that NaN is refused too
            raise ValueError(
                f"found images from {low:.3g} to {high:.3g}, expected [0, 1]: "
                "map [-1, 1] images by (x + 1) / 2, clamp what a generator gives"
            )
    return seeds.detach().cpu().numpy()


Parameter = float | Sequence[float] | Mapping[str, Sequence[float]]
"""As written in YAML: `0.1`, `[3, 7, 9]` (each equally likely) or `{uniform: [0.0, 0.1]}`."""


@dataclass(frozen=True)
class Draw:
    """The distribution of a parameter, as a map from a uniform number to a value."""

    values: tuple[float, ...]
    uniform: bool = False  # values are then the two ends of a range

    def at(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the values that belong to uniform numbers `u` in [0, 1): the quantile function, float64, same shape."""
        if self.uniform:
            low, high = self.values
            return low + (high - low) * u
        return np.asarray(self.values, dtype=np.float64)[(u * len(self.values)).astype(np.int64)]


def parse_draw(what: str, value: object, minimum: float, maximum: float, unit: str, *, whole: bool = False) -> Draw:
    """Read a parameter as YAML gives it: a number, a list of numbers, or `{uniform: [low, high]}`.

    Messages name it as `what`, `noise.std` for example, with its unit. Values lie in [minimum, maximum]; where they
    must be whole numbers, a uniform range is refused.

    Raises:
        ValueError: anything else.
    """
    uniform = isinstance(value, Mapping)
    listed: Any = value.get("uniform") if isinstance(value, Mapping) and set(value) == {"uniform"} else value
    numbers: Sequence[Any] = listed if isinstance(listed, Sequence) and not isinstance(listed, str) else [listed]
    forms = "a number or a list of numbers" + ("" if whole else ", or {uniform: [low, high]}")
    if (
        not numbers
        or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers)
        or (uniform and (whole or len(numbers) != 2 or numbers[0] > numbers[1]))
    ):
        raise ValueError(f"{what}: found {value!r}, expected {forms}")
    kind = "whole numbers" if whole else "numbers"
    wrong = [n for n in numbers if not minimum <= n <= maximum or (whole and n != int(n))]
    if wrong:
        raise ValueError(f"{what}: found {wrong[0]!r}, expected {kind} from {minimum:g} to {maximum:g} ({unit})")
    return Draw(tuple(float(number) for number in numbers), uniform)
