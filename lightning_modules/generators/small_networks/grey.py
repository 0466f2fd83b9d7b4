"""What the small grey generators share: a 28 px image inside the black frame that the padded reals have.

Fashion-MNIST is 28 px and padded with exact zeros to 32. A source whose frame were not exactly zero would give itself
away by it, and an attributor would learn the padding instead of the model; so no network here sees or makes the frame.
"""

from __future__ import annotations

from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.common.random_streams import standard_normal_latents

INNER_SIZE = 28
FRAME = 2
IMAGE_SIZE = INNER_SIZE + 2 * FRAME


def add_frame(grey: Tensor) -> Tensor:
    """Pad grey images `(n, 1, 28, 28)` with exact zeros and replicate them to RGB `(n, 3, 32, 32)`."""
    return F.pad(grey, (FRAME, FRAME, FRAME, FRAME)).expand(-1, 3, -1, -1)


def remove_frame(images: Tensor) -> Tensor:
    """Undo `add_frame`: RGB `(n, 3, 32, 32)` to the inner grey image `(n, 1, 28, 28)` (channel 0)."""
    return images[:, :1, FRAME:-FRAME, FRAME:-FRAME]


class GreyGenerator(nn.Module):
    """Base of the bundled generators: `forward` makes grey 28 px images in [0, 1], `synthesize` frames them in RGB."""

    image_size = IMAGE_SIZE

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)` to grey images `(n, 1, 28, 28)`, about [0, 1]."""
        raise NotImplementedError

    def sample_latents(self, n: int, seed: int, start: int = 0) -> Tensor:
        """Return N(0, I) latents `(n, d)`; row i depends on `(seed, start + i)` alone."""
        return standard_normal_latents(n, self.latent_dim, seed, start)

    def synthesize(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)` to RGB images `(n, 3, 32, 32)`, about [0, 1], with a frame of exact zeros."""
        images: Tensor = self(latents)
        return add_frame(images)

    def freeze(self) -> Self:
        """Switch to inference for good: evaluation mode, no parameter takes a gradient."""
        return self.eval().requires_grad_(False)


class FramedGenerator(GreyGenerator):
    """Takes the mean of the colours of 32 px images and replaces the frame by zeros.

    A generator that was trained on padded grey garments nearly makes them grey and nearly leaves the frame black. An
    attributor would learn that small rest, which says how the source was joined to the set and nothing of the model.
    """

    def __init__(self, generator: Any) -> None:
        if generator.image_size != IMAGE_SIZE:
            raise ValueError(f"found a generator of {generator.image_size} px images, expected {IMAGE_SIZE} px")
        super().__init__(generator.latent_dim)
        self.generator = generator

    def sample_latents(self, n: int, seed: int, start: int = 0) -> Tensor:
        """The latents of the generator itself, `(n, d)`."""
        latents: Tensor = self.generator.sample_latents(n, seed, start)
        return latents

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)` to grey images `(n, 1, 28, 28)`, about [0, 1]."""
        return remove_frame(self.generator.synthesize(latents).mean(dim=1, keepdim=True))
