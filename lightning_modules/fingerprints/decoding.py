"""What every key decoder gives: bits, the evidence for them, and how well the image was explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class KeyEstimate:
    """Decoded keys of n images.

    Attributes:
        logits: float32 `(n, m)`, evidence for a 1 against a 0; log odds where the decoder is calibrated.
        loss: float32 `(n,)`, what the decoder minimised, at its end; nan for a decoder that minimises nothing.
        latents: float32 `(n, d)`, the latents found with their keys, or None.
    """

    logits: Tensor
    loss: Tensor
    latents: Tensor | None = None

    @property
    def bits(self) -> Tensor:
        """Decoded bits, bool `(n, m)`."""
        return self.logits > 0

    @property
    def confidence(self) -> Tensor:
        """Probability of each decoded bit, float32 `(n, m)` in [0.5, 1]."""
        return torch.sigmoid(self.logits.abs())


class KeyDecoder(Protocol):
    """Reads keys from images. It is given images and nothing else: no key, no user, no label."""

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1], as 8-bit files hold them."""
        ...
