"""Reading a key with a network: one forward pass instead of an optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.fingerprints.decoders.base import (
    UNWATCHED,
    DecoderParts,
    KeyEstimate,
    NamedDecoder,
    Start,
    Watch,
)
from lightning_modules.fingerprints.decoders.key_network import CalibratedNetwork
from lightning_modules.fingerprints.decoders.registrations import (
    FINE,
    MARGIN,
    REFINEMENTS,
    certainty,
    registrations,
    resampled,
)
from lightning_modules.fingerprints.settings import at_least


@dataclass(frozen=True)
class AmortisedSettings:
    """How the network is run.

    Attributes:
        batch: images that are computed together.
        registrations: what is tried beside the image as it is, names of `registrations.REGISTRATIONS`, and
            `fine`.
    """

    batch: int = 256
    registrations: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse settings that cannot be run."""
        at_least("batch", self.batch, 1)
        registrations(self.registrations)


class AmortisedDecoder(NamedDecoder):
    """Decodes keys by a trained network, in evaluation mode; of several registrations all are read.

    Args:
        network: the trained network.
        batch: images that are computed together.
        tried: names of registrations.
        ground: what lies outside images that are put back, `(1, 3, H, W)` (`registrations.resampled`).
        watch: asked before each pass of the network, where a search follows.
    """

    settings_class = AmortisedSettings
    needs_network = True
    searches = False

    def __init__(
        self,
        network: CalibratedNetwork,
        batch: int = 256,
        tried: Sequence[str] = (),
        ground: Tensor | None = None,
        watch: Watch = UNWATCHED,
    ) -> None:
        self.network, self.batch, self.tried, self.ground = network.eval(), batch, registrations(tried), ground
        self.watch = watch
        self.refined = REFINEMENTS if FINE in tried else []

    @classmethod
    def build(cls, parts: DecoderParts, settings: AmortisedSettings) -> AmortisedDecoder:
        """See `base.NamedDecoder`."""
        return cls(parts.network, settings.batch, settings.registrations, likely_ground(parts, settings.registrations))

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1]; nothing is minimised, so the loss is nan."""
        start = self.starts(images)
        nothing = torch.full((len(images),), float("nan"), device=images.device)
        return KeyEstimate(
            start.logits, nothing, alpha=start.alpha, network_logits=start.both_logits, readings=start.readings
        )

    @torch.no_grad()
    def starts(self, images: Tensor) -> Start:
        """The surest reading of each of images `(n, 3, H, W)`, and the logits of all."""
        parts = [self._registered(part) for part in torch.split(images, self.batch)]
        logits, alpha, put_back, readings = (torch.cat(some) for some in zip(*parts, strict=True))
        if len(self.tried) + len(self.refined) == 1:
            return Start(logits, alpha, images)
        return Start(logits, alpha, put_back, readings)

    def _registered(self, images: Tensor) -> tuple[Tensor, ...]:
        """What `Start` holds, in its order."""
        read = _Readings(self.network, images, self.watch)
        for register in self.tried[1:]:
            read.add(register(images, self.ground))
        if self.refined:
            size = images.shape[-2:]
            surest = torch.stack([register.matrix(*size) for register in self.tried])[read.chosen.cpu()]
            for step in self.refined:
                read.add(resampled(images, surest @ step.matrix(*size), self.ground))
        return *read.best, torch.stack(read.logits, dim=1)


@torch.no_grad()
def likely_ground(parts: DecoderParts, tried: Sequence[str]) -> Tensor | None:
    """The image `(1, 3, H, W)` of the mean latent, where there are registrations: it has a likely edge."""
    return parts.generator.synthesize(parts.fingerprint.mean[None]).clamp(0.0, 1.0) if tried else None


class _Readings:
    """Answers to images as they are and as they are put back, and the surest of each image."""

    def __init__(self, network: CalibratedNetwork, images: Tensor, watch: Watch) -> None:
        self.network, self.watch = network, watch
        watch.check()
        logits, alpha = network(images)
        self.best, self.logits, self.sure = [logits, alpha, images], [logits], certainty(logits)
        self.chosen = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def add(self, put_back: Tensor) -> None:
        """Read images that were put back; they are surer where they are so by `MARGIN`."""
        self.watch.check()
        found = [*self.network(put_back), put_back]
        sure = certainty(found[0]) - MARGIN
        surer = sure > self.sure
        self.sure = torch.where(surer, sure, self.sure)
        self.chosen[surer] = len(self.logits)
        self.logits.append(found[0])
        self.best = [
            torch.where(surer.view(-1, *[1] * (old.ndim - 1)), new, old)
            for old, new in zip(self.best, found, strict=True)
        ]
