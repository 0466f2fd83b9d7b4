"""Reading a key with a network: one forward pass instead of an optimisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    plausibility,
    registrations,
    resampled,
)
from lightning_modules.fingerprints.settings import at_least

Show = Callable[[Tensor, Tensor], Tensor]
SHOWN, SHOWN_AROUND = 16, 8
"""Readings of an image, the surest ones, whose images are looked at; and of the small steps around the best of them. A
synthesis each. With 8 for both in place of 16 for both, images of 32 px come out the same, and of 24 cropped ones of
64 px 22 are named among 50 users in place of all (measured once, before `registrations.SOFTENED`)."""


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
        watch: asked before each pass of the network and each synthesis, where a search follows.
        show: makes images `(n, 3, H, W)` in [0, 1] of alpha `(n, k)` and bits `(n, m)`. The reading whose image
            explains the given one is then the answer (`registrations.plausibility`); without it, the surest reading.
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
        show: Show | None = None,
    ) -> None:
        self.network, self.batch, self.tried, self.ground = network.eval(), batch, registrations(tried), ground
        self.watch, self.show = watch, show
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
        """The best reading of each of images `(n, 3, H, W)`, and the logits of all."""
        parts = [self._registered(part) for part in torch.split(images, self.batch)]
        logits, alpha, put_back, readings = (torch.cat(some) for some in zip(*parts, strict=True))
        if len(self.tried) + len(self.refined) == 1:
            return Start(logits, alpha, images)
        return Start(logits, alpha, put_back, readings)

    def _registered(self, images: Tensor) -> tuple[Tensor, ...]:
        """What `Start` holds, in its order."""
        size = images.shape[-2:]
        steps = [register.matrix(*size).expand(len(images), -1, -1) for register in self.tried]
        read = _Readings(self, images)
        read.add(steps[:1], [images], self.network)
        if len(steps) > 1:
            put_back = (register(images, self.ground) for register in self.tried[1:])
            read.add(steps[1:], put_back, self.network.quicker)
        chosen = read.best(range(len(self.tried)), SHOWN)
        if self.refined:
            around = read.matrices(chosen)
            steps = [around @ step.matrix(*size) for step in self.refined]
            read.add(steps, (resampled(images, step, self.ground) for step in steps), self.network.quicker)
            chosen = read.best(range(len(self.tried), read.logits.shape[1]), SHOWN_AROUND, chosen)
        logits, alpha = read.of(chosen)
        return logits, alpha, read.put_back(chosen), read.logits


@torch.no_grad()
def likely_ground(parts: DecoderParts, tried: Sequence[str]) -> Tensor | None:
    """The image `(1, 3, H, W)` of the mean latent, where there are registrations: it has a likely edge."""
    return parts.generator.synthesize(parts.fingerprint.mean[None]).clamp(0.0, 1.0) if tried else None


class _Readings:
    """Answers to images as they are, which come first, and as they are put back.

    A network that has a quicker one looks through all of them with that, and reads the surest again itself.
    """

    def __init__(self, decoder: AmortisedDecoder, images: Tensor) -> None:
        self.decoder, self.images = decoder, images
        self.logits = self._alpha = torch.empty(0)  # (n, r, m) and (n, r, k)
        self._sure = self._matrices = torch.empty(0)  # float64 (n, r), and (n, r, 3, 3) on the CPU
        self._read = torch.empty(0, dtype=torch.bool)  # (n, r), whether by the network itself
        self._rows = torch.arange(len(images), device=images.device)

    def add(self, matrices: Sequence[Tensor], put_back: Iterable[Tensor], network: CalibratedNetwork) -> None:
        """Read images that were put back by matrices `(n, 3, 3)`, which are on the CPU, with a network."""
        answers = []
        for images in put_back:
            self.decoder.watch.check()
            answers.append(network(images))
        logits, alpha = (torch.stack(some, dim=1) for some in zip(*answers, strict=True))
        sure = certainty(logits.flatten(0, 1)).view(logits.shape[:2])
        read = torch.full_like(sure, network is self.decoder.network, dtype=torch.bool)
        new = (logits, alpha, sure, torch.stack(list(matrices), dim=1), read)
        if self.logits.numel():
            old = (self.logits, self._alpha, self._sure, self._matrices, self._read)
            new = tuple(torch.cat(pair, dim=1) for pair in zip(old, new, strict=True))  # type: ignore[assignment]
        self.logits, self._alpha, self._sure, self._matrices, self._read = new

    def again(self, places: Tensor) -> None:
        """Read images as some readings of them `(n, few)` put them back, by the network itself where it has not yet."""
        for chosen in places.unbind(dim=1):
            left = ~self._read[self._rows, chosen]
            if not bool(left.any()):
                continue
            self.decoder.watch.check()
            logits, alpha = self.decoder.network(self.put_back(chosen)[left])
            where = self._rows[left], chosen[left]
            self.logits[where], self._alpha[where] = logits.to(self.logits.dtype), alpha.to(self._alpha.dtype)
            self._sure[where] = certainty(logits)
            self._read[where] = True

    def of(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(n, m)` and alpha `(n, k)` of the chosen readings `(n,)`."""
        return self.logits[self._rows, chosen], self._alpha[self._rows, chosen]

    def matrices(self, chosen: Tensor) -> Tensor:
        """Those of the chosen readings `(n,)`, float64 `(n, 3, 3)`."""
        return self._matrices[torch.arange(len(chosen)), chosen.cpu()]

    def put_back(self, chosen: Tensor) -> Tensor:
        """The images `(n, 3, H, W)` that the chosen readings `(n,)` are of."""
        moved = chosen > 0
        if not bool(moved.any()):
            return self.images
        found = self.images.clone()
        found[moved] = resampled(self.images[moved], self.matrices(chosen)[moved.cpu()], self.decoder.ground)
        return found

    def best(self, among: Sequence[int], shown: int, before: Tensor | None = None) -> Tensor:
        """The best of some readings of each image, and of one that was best before `(n,)`: its number `(n,)`.

        `shown` of them, the surest ones, are read by the network itself, and images are made of them where the decoder
        has a `show`.
        """
        places = torch.tensor(among, device=self.images.device).expand(len(self.images), -1)
        if before is not None:
            places = torch.cat([before[:, None], places], dim=1)
        if places.shape[1] == 1:
            return places[:, 0]
        if self.decoder.show is not None or self.decoder.network.quicker is not self.decoder.network:
            first = self._certain(places)
            first[:, 0] = torch.inf  # the image as it is, or what was best before, is always looked at
            places = places.gather(1, first.topk(min(shown, first.shape[1]), dim=1).indices)
            self.again(places)
        value = self._certain(places)
        if self.decoder.show is not None:
            value = (value + self._plausibility(places)).nan_to_num(nan=-torch.inf)
        return places.gather(1, value.argmax(dim=1, keepdim=True))[:, 0]

    def _certain(self, places: Tensor) -> Tensor:
        """How sure readings `(n, few)` are, less what the image as it is has ahead, float64 `(n, few)`."""
        return (self._sure.gather(1, places) - MARGIN * (places > 0)).nan_to_num(nan=-torch.inf)

    def _plausibility(self, places: Tensor) -> Tensor:
        """Of readings `(n, few)` of each image, in nats, float64 `(n, few)`."""
        assert self.decoder.show is not None
        found = []
        for chosen in places.unbind(dim=1):
            logits, alpha = self.of(chosen)
            self.decoder.watch.check()
            found.append(plausibility(self.decoder.show(alpha, logits > 0), self.images, self.matrices(chosen)))
        return torch.stack(found, dim=1)
