"""Reading a key in two stages: from where a network, an encoder or a descent begins, a search goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.fingerprints.decoders.amortised import AmortisedDecoder, likely_ground
from lightning_modules.fingerprints.decoders.base import (
    DecoderParts,
    KeyDecoder,
    KeyEstimate,
    NamedDecoder,
    Start,
    Watch,
)
from lightning_modules.fingerprints.decoders.inversion import InversionDecoder, InversionSettings
from lightning_modules.fingerprints.decoders.least_squares import LeastSquaresDecoder
from lightning_modules.fingerprints.decoders.losses import ImageLoss, make_loss
from lightning_modules.fingerprints.decoders.post_processing import FILTERS, Filter, likeliest_filters
from lightning_modules.fingerprints.decoders.refinement import Refinement, RefinementSettings
from lightning_modules.fingerprints.decoders.registrations import registrations
from lightning_modules.fingerprints.decoders.search_settings import LeastSquaresSettings
from lightning_modules.fingerprints.decoders.search_space import SearchSpace, search_space
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.generators.protocol import Generator

DESCENT = InversionSettings(starts=16, steps=60, learning_rate=0.1, decay=0.008, whitened=True, batch=256)
"""The descent that starts an efficient inversion."""
BATCH = 256
CONTRADICTION = 5.0
"""Standard deviations below the expected log likelihood at which an answer contradicts the start."""


class Search(Protocol):
    """Improves given answers."""

    def refine(
        self,
        images: Tensor,
        alpha: Tensor,
        logits: Tensor,
        alpha_error: Tensor | None = None,
        behind: Filter | None = None,
    ) -> KeyEstimate:
        """Answers to images `(n, 3, H, W)`, from alpha `(n, k)` in deviations and log odds of the bits `(n, m)`.

        `alpha_error` `(k,)` is the variance of the error of alpha, where it is known; `behind` what the images met.
        """
        ...


class StartDecoder(Protocol):
    """Gives a search its start."""

    def starts(self, images: Tensor) -> Start:
        """The answer that a search of images `(n, 3, H, W)` begins with."""
        ...


@dataclass(frozen=True)
class HybridSettings(LeastSquaresSettings):
    """How the search is run, and what the network reads before.

    Attributes:
        registrations: what is tried beside the image as it is, names of `registrations.REGISTRATIONS`, and
            `fine`. The search goes on from the likeliest reading, by the network's certainty and the image it makes.
    """

    registrations: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse settings that cannot be run."""
        super().__post_init__()
        registrations(self.registrations)


class HybridDecoder(NamedDecoder):
    """Searches by least squares from a start and keeps whichever explains the image better.

    One loss ranks both answers as a saved image would show them: their alpha with their bits, synthesised. With
    `alpha_error`, the variance `(k,)` of the start's alpha as measured on other images, the search takes the start's
    bits and alpha for what is known beforehand.

    A search that takes a blurred image for a sharp one finds another latent, and is sure of it. So the start's answer
    first tells which filter the image met (`post_processing`), and the search goes on behind that filter. A start that
    is calibrated has a second say: an answer whose bits contradict it more than its own odds allow is not kept.

    With registrations the image is searched as the likeliest reading of the network puts it back, that is one which is
    sure and whose image explains what was read. No key has a part in that choice. All readings stand beside the answer.
    """

    settings_class: ClassVar[type] = HybridSettings
    preset: ClassVar[Mapping[str, Any]] = {"iterations": 10, "tolerance": 1e-2, "stop_log_odds": 100.0}
    needs_network = True

    def __init__(
        self,
        start: StartDecoder,
        search: Search,
        space: SearchSpace,
        generator: Generator,
        fingerprint: Fingerprint,
        loss: ImageLoss,
        alpha_error: Tensor | None = None,
    ) -> None:
        self.start, self.search, self.space = start, search, space
        self.generator, self.fingerprint, self.loss = generator, fingerprint, loss
        # a code is the latent and the quantisation's error, which no start knows
        known = 1.0 / space.widening.square()
        self.alpha_error = None if alpha_error is None else alpha_error * known + (1.0 - known)

    @classmethod
    def build(cls, parts: DecoderParts, settings: HybridSettings) -> HybridDecoder:
        """Least squares from the network's answer, which is trusted as far as its validation says."""
        start = network_start(parts, settings.registrations)
        return cls.from_start(start, parts, settings, parts.network.alpha_error)

    @classmethod
    def from_start(
        cls, start: StartDecoder, parts: DecoderParts, settings: LeastSquaresSettings, alpha_error: Tensor | None = None
    ) -> HybridDecoder:
        """Least squares from the answer of any start; `alpha_error` `(k,)` is its error of alpha, where known."""
        space = search_space(parts.generator, parts.fingerprint)
        return cls(
            start,
            _search(space, settings, parts.watch),
            space,
            parts.generator,
            parts.fingerprint,
            parts.loss,
            alpha_error,
        )

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1], as 8-bit files hold them."""
        start = self.start.starts(images)
        with torch.autocast(images.device.type, enabled=False):  # differences of images drown in half precision
            return self._improved(start)

    def _improved(self, start: Start) -> KeyEstimate:
        logits, alpha, images = start.logits.float(), start.alpha.float(), start.images
        first = self._shown(alpha, logits > 0)
        shown = synthesised(self.generator, first)
        met = likeliest_filters(shown, images)
        answers = logits.clone(), images.new_zeros(len(images)), first.clone()
        for name in dict.fromkeys(met):  # images that met the same are searched together
            some = torch.tensor([place for place, one in enumerate(met) if one == name], device=images.device)
            behind = FILTERS.get(name)
            mine = (images[some], alpha[some], logits[some], first[some], shown[some])
            for answer, part in zip(answers, self._searched(*mine, behind), strict=True):
                answer[some] = part
        trained = self.alpha_error is not None
        return KeyEstimate(
            *answers,
            alpha=alpha if trained else None,
            network_logits=start.both_logits if trained else None,
            readings=start.readings,
        )

    def _searched(
        self, images: Tensor, alpha: Tensor, logits: Tensor, first: Tensor, shown: Tensor, behind: Filter | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, loss and latents of images that all met one filter."""
        found = self.search.refine(images, alpha / self.space.widening, logits, self.alpha_error, behind)
        assert found.latents is not None
        second = self.fingerprint.embed(found.latents, found.bits)
        both = shown, synthesised(self.generator, second)
        loss, loss_found = (_losses(self.loss, each if behind is None else behind(each), images) for each in both)
        better = loss_found < loss
        if self.alpha_error is not None:
            better &= consistent(found.bits, logits)
        return (
            torch.where(better[:, None], found.logits, logits),
            torch.where(better, loss_found, loss),
            torch.where(better[:, None], second, first),
        )

    def _shown(self, alpha: Tensor, bits: Tensor) -> Tensor:
        return self.fingerprint.latents(alpha, bits.float())


class RefinedDecoder(HybridDecoder):
    """The network's answer, improved by a fixed number of conjugate-gradient steps (`refinement`).

    It differs from `HybridDecoder` in how the search goes on, and in what an image costs: tens of syntheses, and the
    same for each. Blur and resizing are looked for, and answers weighed, as there.
    """

    settings_class = RefinementSettings
    preset: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def build(cls, parts: DecoderParts, settings: Any) -> RefinedDecoder:
        """Refine the network's answer, which is trusted as far as its validation says."""
        space, start = search_space(parts.generator, parts.fingerprint), network_start(parts, settings.registrations)
        search = Refinement(space, settings, parts.watch)
        return cls(start, search, space, parts.generator, parts.fingerprint, parts.loss, parts.network.alpha_error)


class RestartedDecoder(NamedDecoder):
    """Searches by least squares from every restart that a short descent leaves, and keeps the one of least residual.

    A descent of few steps tells good restarts from bad ones badly, and the best of them often leads to a wrong valley;
    the residual that least squares leave tells far better. The loss is that of the estimate.
    """

    settings_class = LeastSquaresSettings
    preset: ClassVar[Mapping[str, Any]] = dict(
        iterations=15, survivors=((2, 6), (5, 3)), tolerance=1e-3, stop_log_odds=1000.0
    )

    def __init__(
        self,
        descent: InversionDecoder,
        search: LeastSquaresDecoder,
        generator: Generator,
        fingerprint: Fingerprint,
        loss: ImageLoss,
    ) -> None:
        self.descent, self.search, self.generator = descent, search, generator
        self.fingerprint, self.loss = fingerprint, loss

    @classmethod
    def build(cls, parts: DecoderParts, settings: LeastSquaresSettings) -> KeyDecoder:
        """Least squares from the generator's encoder where it has one, else from each restart of a short descent."""
        if hasattr(parts.generator, "encode"):
            return HybridDecoder.from_start(EncoderStarts(parts.generator, parts.fingerprint), parts, settings)
        descent = InversionDecoder(
            parts.generator.synthesize, parts.fingerprint, parts.loss, DESCENT, watch=parts.watch
        )
        search = _search(search_space(parts.generator, parts.fingerprint), settings, parts.watch)
        return cls(descent, search, parts.generator, parts.fingerprint, parts.loss)

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1], as 8-bit files hold them."""
        with torch.autocast(images.device.type, enabled=False):
            return KeyEstimate.joined([self._decoded(some) for some in torch.split(images, self.search.settings.batch)])

    def _decoded(self, images: Tensor) -> KeyEstimate:
        alpha, logits = self.descent.survivors(images)
        found = self.search.refine(images, alpha, logits)
        assert found.latents is not None
        latents = self.fingerprint.embed(found.latents, found.bits)
        return KeyEstimate(found.logits, loss_of(self.loss, self.generator, images, latents), latents)


class EncoderStarts:
    """The starts that a generator's own `encode` gives: its latents of the images."""

    def __init__(self, generator: Generator, fingerprint: Fingerprint) -> None:
        self.generator, self.fingerprint = generator, fingerprint

    @torch.no_grad()
    def starts(self, images: Tensor) -> Start:
        """Logits as a linear reading of the key axes, and alpha, of images `(n, 3, H, W)`."""
        latents: Tensor = self.generator.encode(images)  # type: ignore[attr-defined]
        axes = self.fingerprint.key_axes.mean(dim=0)  # copies of a bit are averaged
        key = (latents - self.fingerprint.mean) @ axes.T / self.fingerprint.sigma + self.fingerprint.centre
        return Start(8.0 * (key.clamp(0.0, 1.0) - 0.5), coordinates(latents, self.fingerprint), images)


def network_start(parts: DecoderParts, tried: Sequence[str]) -> AmortisedDecoder:
    """The network's best reading of each image, of registrations by name, told by the images that readings make."""

    def show(alpha: Tensor, bits: Tensor) -> Tensor:
        with torch.autocast(alpha.device.type, enabled=False):
            return synthesised(parts.generator, parts.fingerprint.latents(alpha.float(), bits.float()))

    ground = likely_ground(parts, tried)
    return AmortisedDecoder(parts.network, tried=tried, ground=ground, watch=parts.watch, show=show)


def _search(space: SearchSpace, settings: LeastSquaresSettings, watch: Watch) -> LeastSquaresDecoder:
    spectrum = make_loss("spectrum").to(space.fingerprint.mean.device)
    return LeastSquaresDecoder(space.synthesize, space.fingerprint, spectrum, settings, watch)


def consistent(bits: Tensor, logits: Tensor, deviations: float = CONTRADICTION) -> Tensor:
    """Whether bits, bool `(n, m)`, can be the truth that calibrated log odds `(n, m)` speak of, bool `(n,)`.

    The log likelihood of the true bits is a sum over bits whose mean and variance the odds themselves give.
    """
    sure = logits.double().abs()
    chance = torch.sigmoid(-sure)  # of a bit being the other one
    agreeing = bits == (logits > 0)
    likelihood = torch.where(agreeing, F.logsigmoid(sure), F.logsigmoid(-sure)).sum(dim=1)
    mean = (F.logsigmoid(sure) - chance * sure).sum(dim=1)
    variance = (chance * (1.0 - chance) * sure.square()).sum(dim=1)
    return likelihood > mean - deviations * variance.clamp_min(0.1).sqrt()


@torch.no_grad()
def synthesised(generator: Generator, latents: Tensor) -> Tensor:
    """The images `(n, 3, H, W)` in [0, 1] that latents `(n, d)` make, `BATCH` at a time."""
    return torch.cat([generator.synthesize(some).clamp(0.0, 1.0) for some in torch.split(latents, BATCH)])


@torch.no_grad()
def loss_of(loss: ImageLoss, generator: Generator, images: Tensor, latents: Tensor) -> Tensor:
    """Loss `(n,)` between images `(n, 3, H, W)` and what latents `(n, d)` make."""
    return _losses(loss, synthesised(generator, latents), images)


def _losses(loss: ImageLoss, made: Tensor, images: Tensor) -> Tensor:
    parts = zip(torch.split(made, BATCH), torch.split(images, BATCH), strict=True)
    return torch.cat([loss(*pair) for pair in parts])


def coordinates(latents: Tensor, fingerprint: Fingerprint) -> Tensor:
    """Coordinates of latents `(n, d)` outside the key in standard deviations, `(n, k)`."""
    along = (latents - fingerprint.mean) @ fingerprint.other_axes.T
    return along / fingerprint.other_deviation.clamp_min(1e-6)
