"""Reading a key in two stages: from where a network, an encoder or a descent begins, a search goes on."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from lightning_modules.fingerprints.decoders.base import KeyEstimate
from lightning_modules.fingerprints.decoders.inversion import InversionDecoder
from lightning_modules.fingerprints.decoders.least_squares import LeastSquaresDecoder, SearchSpace
from lightning_modules.fingerprints.decoders.losses import ImageLoss
from lightning_modules.fingerprints.fingerprint import Fingerprint
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
        loss, loss_found = (
            judged(self.judge, self.generator, images, latents, self.batch) for latents in (first, second)
        )
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


class RestartedDecoder:
    """Searches by least squares from every restart that a short descent leaves, and keeps the one of least residual.

    A descent of few steps tells good restarts from bad ones badly, and the best of them often leads to a wrong valley;
    the residual that least squares leave tells far better.

    Args:
        descent: a whitened inversion.
        search: least squares from its restarts.
        generator: the frozen generator.
        fingerprint: its fingerprint, on its device.
        judge: the loss of the answer, for the estimate.
        batch: images judged together.
    """

    def __init__(
        self,
        descent: InversionDecoder,
        search: LeastSquaresDecoder,
        generator: Generator,
        fingerprint: Fingerprint,
        judge: ImageLoss,
        batch: int = 256,
    ) -> None:
        self.descent, self.search, self.generator = descent, search, generator
        self.fingerprint, self.judge, self.batch = fingerprint, judge, batch

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1], as 8-bit files hold them."""
        alpha, logits = self.descent.survivors(images)
        found = self.search.refine(images, alpha, logits)
        assert found.latents is not None
        latents = self.fingerprint.embed(found.latents, found.bits)
        return KeyEstimate(found.logits, judged(self.judge, self.generator, images, latents, self.batch), latents)


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


@torch.no_grad()
def judged(judge: ImageLoss, generator: Generator, images: Tensor, latents: Tensor, batch: int) -> Tensor:
    """Loss `(n,)` between images `(n, 3, H, W)` and what latents `(n, d)` make, so many at a time."""
    parts = zip(torch.split(images, batch), torch.split(latents, batch), strict=True)
    return torch.cat([judge(generator.synthesize(some).clamp(0.0, 1.0), image) for image, some in parts])


def coordinates(latents: Tensor, fingerprint: Fingerprint) -> Tensor:
    """Coordinates of latents `(n, d)` outside the key in standard deviations, `(n, k)`."""
    along = (latents - fingerprint.mean) @ fingerprint.other_axes.T
    return along / fingerprint.other_deviation.clamp_min(1e-6)
