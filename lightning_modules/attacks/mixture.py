"""One of several attacks per image: what a key decoder is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.attacks.base import Attack, checked_strength
from lightning_modules.attacks.streams import draw_streams


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

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `attack`, int64 `(n,)`: positions in `attacks`."""
        uniform = draw_streams(seeds, self.kind, uniforms=1)[0][:, 0]
        return {"attack": np.searchsorted(self.ends, uniform, side="right").clip(max=len(self.attacks) - 1)}

    def at_strength(self, strength: float) -> Self:
        """Scale every attack; the choice stays the same."""
        weaker = copy(self)
        weaker.attacks = tuple(attack.at_strength(checked_strength(strength)) for attack in self.attacks)
        return weaker

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Attack each image by the attack it has drawn."""
        return self._by_attack(pixels, seeds, lambda attack: attack.attack_pixels)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Attack each image by the attack it has drawn, on the device."""
        return self._by_attack(images, seeds, lambda attack: attack.attack_smoothly)

    def _by_attack(
        self,
        images: Tensor,
        seeds: NDArray[np.int64],
        face: Callable[[Attack], Callable[[Tensor, NDArray[np.int64]], Tensor]],
    ) -> Tensor:
        drawn = self.draw(seeds, min(images.shape[-2:]))["attack"]
        attacked = torch.empty_like(images)
        for position in np.unique(drawn):
            chosen = np.flatnonzero(drawn == position)
            where = torch.from_numpy(chosen).to(images.device)
            attacked[where] = face(self.attacks[position])(images[where], seeds[chosen])
        return attacked
