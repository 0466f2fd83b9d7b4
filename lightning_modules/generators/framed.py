"""A larger generator's images as GM-Fashion holds them: grey, with the exactly black frame of the padded reals."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_modules.generators.grey import IMAGE_SIZE, GreyGenerator, remove_frame


class FramedGenerator(GreyGenerator):
    """Takes the mean of the colours and replaces the frame by zeros.

    A generator that was trained on padded grey garments nearly makes them grey and nearly leaves the frame black. An
    attributor would learn that small rest, which says how the source was joined to the set and nothing of the model.

    Args:
        generator: a generator of 32 px images (`generators.protocol.Generator`).

    Raises:
        ValueError: images of another size.
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
