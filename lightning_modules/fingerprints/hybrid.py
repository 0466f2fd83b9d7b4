"""Reading a key in two stages: a start, a short search from it, and the better of both by loss."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lightning_modules.fingerprints.decoding import KeyEstimate
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.inversion import InversionDecoder
from lightning_modules.fingerprints.least_squares import LeastSquaresDecoder
from lightning_modules.fingerprints.losses import ImageLoss
from lightning_modules.fingerprints.search_space import SearchSpace
from lightning_modules.generators.protocol import Generator


class StartDecoder(Protocol):
    """Gives a search its start."""

    def starts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Key logits `(n, m)` and alpha in standard deviations `(n, k)`."""
        ...


class HybridDecoder:
    """Searches by least squares from a start and keeps whichever explains the image better.

    Both answers are judged as a saved image would show them: their alpha with their bits, synthesised, by one loss.

    Args:
        start: what gives the start: a trained network, or a descent.
        search: least squares in `space`.
        space: what it searches.
        generator: the frozen generator.
        fingerprint: its fingerprint, on its device.
        judge: the loss both are judged by.
        alpha_error: variance of the start's alpha `(k,)`, where it is known from images that the start was measured
            on: the search then takes the start's bits and alpha for what is known beforehand.
        batch: images judged together.
    """

    def __init__(
        self,
        start: StartDecoder,
        search: LeastSquaresDecoder,
        space: SearchSpace,
        generator: Generator,
        fingerprint: Fingerprint,
        judge: ImageLoss,
        alpha_error: Tensor | None = None,
        batch: int = 256,
    ) -> None:
        self.start, self.search, self.space = start, search, space
        self.generator, self.fingerprint, self.judge = generator, fingerprint, judge
        # a code is the latent and the quantisation's error, which no start knows
        known = 1.0 / space.widening.square()
        self.alpha_error = None if alpha_error is None else alpha_error * known + (1.0 - known)
        self.batch = batch

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1], as 8-bit files hold them."""
        logits, alpha = self.start.starts(images)
        found = self.search.refine(images, alpha / self.space.widening, logits, self.alpha_error)
        assert found.latents is not None
        first, second = self._shown(alpha, logits > 0), self.fingerprint.embed(found.latents, found.bits)
        loss, loss_found = self._loss(images, first), self._loss(images, second)
        better = loss_found < loss
        return KeyEstimate(
            torch.where(better[:, None], found.logits, logits),
            torch.minimum(loss, loss_found),
            torch.where(better[:, None], second, first),
        )

    def _shown(self, alpha: Tensor, bits: Tensor) -> Tensor:
        fingerprint = self.fingerprint
        latents = fingerprint.mean + (alpha * fingerprint.other_deviation) @ fingerprint.other_axes
        return fingerprint.embed(latents, bits)

    @torch.no_grad()
    def _loss(self, images: Tensor, latents: Tensor) -> Tensor:
        """Loss of what latents `(n, d)` make, `(n,)`."""
        parts = zip(torch.split(images, self.batch), torch.split(latents, self.batch), strict=True)
        return torch.cat([self.judge(self.generator.synthesize(some).clamp(0.0, 1.0), image) for image, some in parts])


class DescentStarts:
    """The starts that a short inversion finds, for generators without a trained network.

    Args:
        descent: a whitened inversion.
        fingerprint: the fingerprint, on its device.
    """

    def __init__(self, descent: InversionDecoder, fingerprint: Fingerprint) -> None:
        self.descent, self.fingerprint = descent, fingerprint

    def starts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Key logits `(n, m)` and alpha in standard deviations `(n, k)` of the best restart of each image."""
        found = self.descent.decode(images)
        assert found.latents is not None
        return found.logits, coordinates(found.latents, self.fingerprint)


class EncoderStarts:
    """The starts that a generator's own encoder gives: its latents of the images.

    Args:
        generator: a generator with `encode`.
        fingerprint: its fingerprint, on its device.
    """

    def __init__(self, generator: Generator, fingerprint: Fingerprint) -> None:
        self.generator, self.fingerprint = generator, fingerprint

    @torch.no_grad()
    def starts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Key logits `(n, m)`, as a linear reading of the key axes, and alpha in standard deviations `(n, k)`."""
        latents: Tensor = self.generator.encode(images)  # type: ignore[attr-defined]
        axes = self.fingerprint.key_axes.mean(dim=0)  # copies of a bit are averaged
        key = (latents - self.fingerprint.mean) @ axes.T / self.fingerprint.sigma + self.fingerprint.centre
        return 8.0 * (key.clamp(0.0, 1.0) - 0.5), coordinates(latents, self.fingerprint)


def coordinates(latents: Tensor, fingerprint: Fingerprint) -> Tensor:
    """Coordinates of latents `(n, d)` outside the key in standard deviations, `(n, k)`."""
    along = (latents - fingerprint.mean) @ fingerprint.other_axes.T
    return along / fingerprint.other_deviation.clamp_min(1e-6)
