"""Reading a key with a network: one forward pass instead of an optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.fingerprints.decoders.base import DecoderParts, KeyEstimate, NamedDecoder
from lightning_modules.fingerprints.decoders.key_network import KeyNetwork
from lightning_modules.fingerprints.decoders.registrations import MARGIN, certainty, registrations


@dataclass(frozen=True)
class AmortisedSettings:
    """How the network is run.

    Attributes:
        batch: images that are computed together.
        registrations: what is tried beside the image as it is, names of `registrations.REGISTRATIONS`.
    """

    batch: int = 256
    registrations: Sequence[str] = ()


class AmortisedDecoder(NamedDecoder):
    """Decodes keys by a trained network, in evaluation mode; of several registrations all are read."""

    settings_class = AmortisedSettings
    needs_network = True
    searches = False

    def __init__(self, network: KeyNetwork, batch: int = 256, tried: Sequence[str] = ()) -> None:
        self.network, self.batch, self.tried = network.eval(), batch, registrations(tried)

    @classmethod
    def build(cls, parts: DecoderParts, settings: AmortisedSettings) -> AmortisedDecoder:
        """See `base.NamedDecoder`."""
        return cls(parts.network, settings.batch, settings.registrations)

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1]; nothing is minimised, so the loss is nan."""
        parts = [self._registered(part) for part in torch.split(images, self.batch)]
        logits, alpha, readings = (torch.cat(some) for some in zip(*parts, strict=True))
        nothing = torch.full((len(images),), float("nan"), device=images.device)
        return KeyEstimate(logits, nothing, alpha=alpha, readings=readings if len(self.tried) > 1 else None)

    @torch.no_grad()
    def starts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Key logits `(n, m)` and alpha in standard deviations `(n, k)`."""
        parts = [self._registered(part) for part in torch.split(images, self.batch)]
        return torch.cat([logits for logits, *_ in parts]), torch.cat([alpha for _, alpha, _ in parts])

    @torch.no_grad()
    def _registered(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and alpha of the surest reading, and the logits of all."""
        logits, alpha = self.network(images)
        sure, readings = certainty(logits), [logits]
        for register in self.tried[1:]:
            other, its_alpha = self.network(register(images))
            readings.append(other)
            its_certainty = certainty(other) - MARGIN
            surer = its_certainty > sure
            sure = torch.where(surer, its_certainty, sure)
            logits = torch.where(surer[:, None], other, logits)
            alpha = torch.where(surer[:, None], its_alpha, alpha)
        return logits, alpha, torch.stack(readings, dim=1)
