"""Regeneration: an auto-encoder that did not make the image makes it anew (An et al. 2024, WAVES, Sec. 3.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.attacks.base import Attack, Parameter, parse_draw
from lightning_modules.attacks.curves import CURVES
from lightning_modules.common.random_streams import draw_uniforms
from lightning_modules.common.tables import Table

READERS = Table(
    "reader of auto-encoders",
    {
        "check": "lightning_modules.generators.autoencoders:check_autoencoder",
        "load": "lightning_modules.generators.autoencoders:load_autoencoder",
    },
)
"""Who reads an auto-encoder by its name, `(n, 3, H, W)` in [0, 1] to the same: attacks know nothing else of it."""


class Regeneration(Attack):
    """Send each image through an auto-encoder, once or several times ("rinsing").

    The auto-encoder is loaded at the first call, once in a process. One image at a time passes it in `real`, so that
    its bytes do not depend on the batch. The strength of `at_strength` is the share of the regenerated image in the
    result.

    Args:
        passes: how often, 1 to 20.
        autoencoder: checkpoint of a latent diffusion model, whose first stage is taken, or the name of one that ships:
            `score-ldm` (garments in grey), `emoji/score-ldm` (drawings in colour). It has learned what it knows on
            small sets: images of another kind lose much.

    Raises:
        ValueError: a number of passes or an auto-encoder there is not.
    """

    kind = "regeneration"
    curve = CURVES["regeneration"]

    def __init__(self, passes: Parameter = 1, autoencoder: str = "emoji/score-ldm") -> None:
        super().__init__()
        self.passes = parse_draw("regeneration.passes", passes, 1, 20, "times through the auto-encoder", whole=True)
        READERS.load("check")(autoencoder)
        self.autoencoder = autoencoder

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `passes`, int64 `(n,)`."""
        return {"passes": self.passes.at(draw_uniforms(seeds, self.kind, 1)[:, 0]).astype(np.int64)}

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Regenerate one image after the other, in float32."""
        if self.strength == 0.0:
            return pixels
        with torch.no_grad():
            alone = [self.attack_smoothly(pixels[n : n + 1].float(), seeds[n : n + 1]) for n in range(len(seeds))]
        return torch.cat([pixels[:0], *(image.to(pixels) for image in alone)])

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Regenerate; gradients pass the auto-encoder, and its quantisation straight through."""
        if self.strength == 0.0:
            return images
        passes = self.draw(seeds, min(images.shape[-2:]))["passes"]
        regenerate = READERS.load("load")(self.autoencoder)
        made = images
        for turn in range(int(passes.max())):
            more = torch.from_numpy(passes > turn).to(images.device)
            made = torch.where(more[:, None, None, None], regenerate(made), made)
        return images + self.strength * (made - images) if self.strength < 1.0 else made
