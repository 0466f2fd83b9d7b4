"""White Gaussian noise (Nie et al. 2023, Sec. 4: standard deviation ~ U[0, 0.1] of the [0, 1] range)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.attacks.base import Attack, Parameter, Spec, parse_draw
from lightning_modules.attacks.curves import CURVES
from lightning_modules.attacks.noise_field import noise_field
from lightning_modules.common.random_streams import draw_uniforms

_PAPER: Spec = {"std": {"uniform": [0.0, 0.1]}}


class Noise(Attack):
    """Add independent N(0, std^2) to every pixel of every channel, then clamp to [0, 1].

    The noise field of an image is the same at every standard deviation. The strength of `at_strength` multiplies std.

    Args:
        std: standard deviation in [0, 1] image units (0.1 is 25.5 grey levels).

    Raises:
        ValueError: a standard deviation outside [0, 1].
    """

    kind = "noise"
    presets: ClassVar[Mapping[str, Spec]] = {
        **dict.fromkeys(("paper", "paper-scaled", "paper-enlarged"), _PAPER),
        "paper-strongest": {"std": 0.1},
        "life": {"std": {"uniform": [0.0, 0.05]}},
    }
    curve = CURVES["noise"]

    def __init__(self, std: Parameter) -> None:
        super().__init__()
        self.std = parse_draw("noise.std", std, 0.0, 1.0, "standard deviation in [0, 1] image units")

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `std`, float64 `(n,)`, in [0, 1] image units."""
        return {"std": self.strength * self.std.at(draw_uniforms(seeds, self.kind, 1)[:, 0])}

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Add the noise in float64."""
        return self._field(seeds, pixels).add_(pixels)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Add the noise and clamp: what saturates carries no gradient, as in the real image."""
        return self._field(seeds, images).add_(images).clamp_(0.0, 1.0)

    def _field(self, seeds: NDArray[np.int64], like: Tensor) -> Tensor:
        std = self.draw(seeds, min(like.shape[-2:]))["std"]
        return torch.from_numpy(noise_field(seeds, tuple(like.shape[1:]), std)).to(like)
