"""What the small generators share: 32 px images in colour, or grey ones of 28 px inside a black frame.

Fashion-MNIST is 28 px and padded with exact zeros to 32. A source whose frame were not exactly zero would give itself
away by it, and an attributor would learn the padding instead of the model; so no grey network sees or makes the frame.
Images in colour have none.
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


def inner_size(image_channels: int) -> int:
    """Height and width of what a network makes: 28 px for 1 channel, which are framed, 32 px for 3.

    Raises:
        ValueError: another number of channels.
    """
    if image_channels not in (1, 3):
        raise ValueError(f"found image_channels={image_channels}, expected 1 (grey, in a black frame) or 3 (RGB)")
    return INNER_SIZE if image_channels == 1 else IMAGE_SIZE


def inner_images(images: Tensor, image_channels: int) -> Tensor:
    """What a network makes of images `(n, 3, 32, 32)`: `(n, 1, 28, 28)` for 1 channel, all of them for 3.

    Raises:
        ValueError: images of another size.
    """
    size = inner_size(image_channels)
    if images.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(
            f"found images of {images.shape[-1]} x {images.shape[-2]} px, expected {IMAGE_SIZE} px: the small networks "
            "make images of that size; resize the data (`resize`) or train StyleGAN2"
        )
    return remove_frame(images) if size == INNER_SIZE else images


class SmallGenerator(nn.Module):
    """Base of the small generators: `forward` makes images in [0, 1], `synthesize` RGB ones of 32 px.

    Args:
        latent_dim: length of a latent vector.
        image_channels: 1 for grey images of 28 px, which `synthesize` frames; 3 for RGB ones of 32 px.

    Attributes:
        image_shape: `(channels, height, width)` of what `forward` makes.
    """

    image_size = IMAGE_SIZE

    def __init__(self, latent_dim: int, image_channels: int = 1) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        side = inner_size(image_channels)
        self.image_shape = (image_channels, side, side)

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)` to images `(n, *image_shape)`, about [0, 1]."""
        raise NotImplementedError

    def sample_latents(self, n: int, seed: int, start: int = 0) -> Tensor:
        """Return N(0, I) latents `(n, d)`; row i depends on `(seed, start + i)` alone."""
        return standard_normal_latents(n, self.latent_dim, seed, start)

    def synthesize(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)` to RGB images `(n, 3, 32, 32)`, about [0, 1]; grey ones in a frame of exact zeros."""
        images: Tensor = self(latents)
        return add_frame(images) if self.image_shape[0] == 1 else images

    def freeze(self) -> Self:
        """Switch to inference for good: evaluation mode, no parameter takes a gradient."""
        return self.eval().requires_grad_(False)


class FramedGenerator(SmallGenerator):
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
