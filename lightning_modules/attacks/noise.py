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
from lightning_modules.common.random_streams import draw_streams

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
    }
    curve = CURVES["noise"]

    def __init__(self, std: Parameter) -> None:
        super().__init__()
        self.std = parse_draw("noise.std", std, 0.0, 1.0, "standard deviation in [0, 1] image units")

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `std`, float64 `(n,)`, in [0, 1] image units."""
        return {"std": self._scaled(draw_streams(seeds, self.kind, uniforms=1)[0])}

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Add the noise in float64."""
        return pixels + self._field(seeds, pixels)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Add the noise and clamp: what saturates carries no gradient, as in the real image."""
        return (images + self._field(seeds, images)).clamp(0.0, 1.0)

    def _field(self, seeds: NDArray[np.int64], like: Tensor) -> Tensor:
        uniform, normal = draw_streams(seeds, self.kind, uniforms=1, normals=tuple(like.shape[1:]))
        std = torch.from_numpy(self._scaled(uniform)).to(like)
        return std.view(-1, 1, 1, 1) * torch.from_numpy(normal).to(like)

    def _scaled(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.strength * self.std.at(uniform[:, 0])
