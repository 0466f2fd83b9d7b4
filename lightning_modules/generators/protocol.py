"""What every generator of this project can do: latents that belong to an index, images that belong to a latent."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Generator(Protocol):
    """A frozen, deterministic map from latents to images.

    Attributes:
        latent_dim: length d of a latent vector.
        image_size: height and width of an image in pixels.
    """

    latent_dim: int
    image_size: int

    def sample_latents(self, n: int, seed: int, start: int = 0) -> Tensor:
        """Return latents `(n, d)` float32; row i depends on `(seed, start + i)` alone."""

    def synthesize(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)` to images `(n, 3, H, W)`, about [0, 1], not clamped, differentiable in the latents."""
