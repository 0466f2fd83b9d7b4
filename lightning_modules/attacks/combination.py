"""Attacks made of others: none, one after the other (the paper's combined attack), or one of several by chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.attacks.base import Attack, Spec
from lightning_modules.attacks.blur import Blur
from lightning_modules.attacks.curves import CURVES
from lightning_modules.attacks.jpeg import Jpeg
from lightning_modules.attacks.noise import Noise
from lightning_modules.common.images import to_uint8
from lightning_modules.common.random_streams import draw_uniforms


class Identity(Attack):
    """Leave the images as they are; `real` still rounds them to 8 bits."""

    kind = "identity"
    presets: ClassVar[Mapping[str, Spec]] = {name: {} for name in Blur.presets}

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give no parameters: there are none."""
        return {}

    def attack_levels(self, levels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Give the levels."""
        return levels

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Give the pixels."""
        return pixels

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Give the images."""
        return images


class Combination(Attack):
    """Blur, then noise, then JPEG, all three always, in the order of the paper's released code.

    `real` keeps blur and noise in float64 and rounds once, where the encoder takes bytes. Each stage draws what it
    would draw alone, so an image meets the same noise in `noise` and in `combination`.
    """

    kind = "combination"
    presets: ClassVar[Mapping[str, Spec]] = {
        name: {"blur": Blur.presets[name], "noise": Noise.presets[name], "jpeg": Jpeg.presets[name]}
        for name in Blur.presets
    }
    curve = replace(CURVES["combination"], fixed=presets["paper-strongest"])

    def __init__(self, blur: Blur, noise: Noise, jpeg: Jpeg) -> None:
        super().__init__()
        self.stages: tuple[Attack, ...] = (blur, noise, jpeg)

    @classmethod
    def from_options(cls, options: Spec, make: Callable[[str | Mapping[str, Any]], Attack]) -> Self:
        """Make the stages from mappings of their arguments.

        Raises:
            ValueError: a stage that is no mapping, or of another kind.
        """
        for stage, value in options.items():
            if not isinstance(value, Mapping) or value.get("kind", stage) != stage:
                raise ValueError(f"combination.{stage}: found {value!r}, expected the arguments of {stage} as a dict")
        return super().from_options({stage: make({"kind": stage, **options[stage]}) for stage in options}, make)

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give the parameters of the stages: `blur.sigma`, `blur.kernel`, `noise.std`, `jpeg.quality`."""
        drawn = [(stage.kind, stage.draw(seeds, size).items()) for stage in self.stages]
        return {f"{kind}.{what}": values for kind, parameters in drawn for what, values in parameters}

    def at_strength(self, strength: float) -> Self:
        """Scale every stage."""
        weaker = super().at_strength(strength)
        weaker.stages = tuple(stage.at_strength(strength) for stage in self.stages)
        return weaker

    def attack_levels(self, levels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Round after all stages but the last, which takes bytes."""
        pixels = levels.double().div_(255.0)
        for stage in self.stages[:-1]:
            pixels = stage.attack_pixels(pixels, seeds)
        return self.stages[-1].attack_levels(to_uint8(pixels), seeds)

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Send float64 pixels through the stages."""
        for stage in self.stages:
            pixels = stage.attack_pixels(pixels, seeds)
        return pixels

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Send images through the stages on the device."""
        for stage in self.stages:
            images = stage.attack_smoothly(images, seeds)
        return images


class Mixture(Attack):
    """Draw for each image which attack it meets.

    Args:
        attacks: those to choose from, at least one.
        weights: their relative frequencies, at least 0; equal if None.

    Raises:
        ValueError: no attack, or weights that do not fit.
    """

    kind = "mixture"

    def __init__(self, attacks: Sequence[Attack], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        share = [1.0] * len(attacks) if weights is None else list(weights)
        if not attacks or len(share) != len(attacks) or min(share) < 0 or not 0 < sum(share) < float("inf"):
            raise ValueError(
                f"mixture: expected at least one attack and one weight of at least 0 for each, not all 0; "
                f"found {len(attacks)} attacks and the weights {weights}"
            )
        self.attacks = tuple(attacks)
        self.ends = np.cumsum(share) / np.sum(share)  # attack i is chosen below ends[i]

    @classmethod
    def from_options(cls, options: Spec, make: Callable[[str | Mapping[str, Any]], Attack]) -> Self:
        """Make the attacks to choose from, names or mappings."""
        return super().from_options({**options, "attacks": [make(member) for member in options["attacks"]]}, make)

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `attack`, int64 `(n,)`: positions in `attacks`."""
        uniform = draw_uniforms(seeds, self.kind, 1)[:, 0]
        return {"attack": np.searchsorted(self.ends, uniform, side="right").clip(max=len(self.attacks) - 1)}

    def at_strength(self, strength: float) -> Self:
        """Scale every attack; the choice stays the same."""
        weaker = super().at_strength(strength)
        weaker.attacks = tuple(attack.at_strength(strength) for attack in self.attacks)
        return weaker

    def attack_levels(self, levels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Attack each image by the attack it has drawn."""
        return self._by_attack(levels, seeds, lambda attack: attack.attack_levels)

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Attack each image by the attack it has drawn."""
        return self._by_attack(pixels, seeds, lambda attack: attack.attack_pixels)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Attack each image by the attack it has drawn, on the device."""
        return self._by_attack(images, seeds, lambda attack: attack.attack_smoothly)

    def _by_attack(
        self, images: Tensor, seeds: NDArray[np.int64], implementation: Callable[[Attack], Callable[..., Tensor]]
    ) -> Tensor:
        drawn = self.draw(seeds, min(images.shape[-2:]))["attack"]
        attacked = torch.empty_like(images)
        for position in np.unique(drawn):
            chosen = np.flatnonzero(drawn == position)
            where = torch.from_numpy(chosen).to(images.device)
            attacked[where] = implementation(self.attacks[position])(images[where], seeds[chosen])
        return attacked
