"""Reading a key with a network: one forward pass instead of an optimisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.fingerprints.decoders.base import DecoderParts, KeyEstimate, NamedDecoder
from lightning_modules.fingerprints.decoders.key_network import KeyNetwork


@dataclass(frozen=True)
class AmortisedSettings:
    """How the network is run: `batch` images are computed together."""

    batch: int = 256


class AmortisedDecoder(NamedDecoder):
    """Decodes keys by a trained network, in evaluation mode; `batch` images are computed together."""

    settings_class = AmortisedSettings
    needs_network = True

    def __init__(self, network: KeyNetwork, batch: int = 256) -> None:
        self.network, self.batch = network.eval(), batch

    @classmethod
    def build(cls, parts: DecoderParts, settings: AmortisedSettings) -> AmortisedDecoder:
        """See `base.NamedDecoder`."""
        return cls(parts.network, settings.batch)

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1]; nothing is minimised, so the loss is nan."""
        logits, _ = self.starts(images)
        return KeyEstimate(logits, torch.full((len(images),), float("nan"), device=images.device))

    @torch.no_grad()
    def starts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Key logits `(n, m)` and alpha in standard deviations `(n, k)`."""
        parts = [self.network(part) for part in torch.split(images, self.batch)]
        return torch.cat([logits for logits, _ in parts]), torch.cat([alpha for _, alpha in parts])
