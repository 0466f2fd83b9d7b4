"""Auto-encoders by themselves: what the first stage of a latent diffusion model leaves of an image."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from lightning_modules.generators.bundled.manifest import bundled_sources
from lightning_modules.generators.checkpoints.load import load_generator


class AutoEncoder:
    """Images to latents and back, on the device of the images.

    Args:
        generator: a latent diffusion model, frozen; only its first stage is used.
    """

    def __init__(self, generator: Any) -> None:
        self.first_stage = generator.first_stage

    def __call__(self, images: Tensor) -> Tensor:
        """Map images float32 `(n, 3, H, W)` in [0, 1] to what the first stage makes of them, clamped to [0, 1].

        Sides that are no multiple of the stage's factor are filled up with the edge pixel for it.
        """
        stage = self.first_stage.to(images.device)
        height, width = images.shape[-2:]
        room = (0, -width % stage.factor, 0, -height % stage.factor)
        filled = F.pad(images, room, mode="replicate") if any(room) else images
        decoded: Tensor = stage.decode(stage.encode(filled * 2.0 - 1.0))
        return ((decoded + 1.0) / 2.0).clamp(0.0, 1.0)[..., :height, :width]


def check_autoencoder(name: str) -> None:
    """Say at once that there is nothing to load; loads nothing.

    Raises:
        ValueError: neither a path nor a bundled source of that name.
    """
    sources = [source for source in bundled_sources() if source.endswith("ldm")]
    if not Path(name).exists() and name not in sources and "://" not in name:
        raise ValueError(
            f"found the auto-encoder {name!r}, expected the checkpoint of a latent diffusion model, "
            f"or one that ships: {', '.join(sources)}"
        )


@cache
def load_autoencoder(name: str) -> AutoEncoder:
    """Load the first stage of a latent diffusion model: of a checkpoint, or of a bundled source.

    Raises:
        CheckpointError: as `load_generator`.
    """
    return AutoEncoder(load_generator(name, "latent_diffusion").freeze())
