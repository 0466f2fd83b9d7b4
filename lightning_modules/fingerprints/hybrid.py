"""Reading a key with a network and correcting it by a short inversion."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.fingerprints.amortised import AmortisedDecoder
from lightning_modules.fingerprints.decoding import KeyEstimate
from lightning_modules.fingerprints.inversion import InversionDecoder

SURE = 4.0
"""Largest start of a key logit: beyond it the slope of the sigmoid is too small for an inversion to change its mind."""


class HybridDecoder:
    """Starts an inversion where the network sees the image, and keeps the better of both by loss.

    Both are judged by the inversion's own loss on what their latent and key synthesise.

    Args:
        amortised: the network's decoder, for the same fingerprint.
        inversion: a whitened inversion of few steps; its number of starts is not used.

    Raises:
        ValueError: an inversion that is not whitened.
    """

    def __init__(self, amortised: AmortisedDecoder, inversion: InversionDecoder) -> None:
        if not inversion.settings.whitened:
            raise ValueError("found an inversion that is not whitened, expected whitened=true: the network's are")
        self.amortised = amortised
        self.inversion = inversion

    def decode(self, images: Tensor) -> KeyEstimate:
        """Decode images `(n, 3, H, W)` in [0, 1], as 8-bit files hold them."""
        logits, alpha = self.amortised.starts(images)
        missing = self.inversion.axes - alpha.shape[1]
        start = torch.cat([alpha, alpha.new_zeros(len(alpha), missing)], dim=1).clamp(-3.0, 3.0)
        first = self.inversion.judge(images, start, logits)
        refined = self.inversion.refine(images, start[:, None], logits.clamp(-SURE, SURE)[:, None])
        better = refined.loss < first
        return KeyEstimate(torch.where(better[:, None], refined.logits, logits), torch.minimum(refined.loss, first))
