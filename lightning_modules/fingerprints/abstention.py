"""Images of which no verdict is given, whoever's key their decoded bits agree with.

A verdict's p-value is that of random keys. What a decoder answers to an image that shows nothing, or nothing like what
the generator draws, is an accident of its training and much the same for many such images: whoever holds such an answer
as a key would be named by all of them. `users.key_checks` keeps such keys out of registries; this keeps such images out
of verdicts, whatever the registry.

No verdict is given on an image

- without content: of fewer than `COLOURS` colours, or whose grey varies by less than `DEVIATION` levels once noise is
  averaged out;
- whose decoded latent is far from the generator's own: `FAR` times as far as any of a thousand of them;
- whose log odds are nearly those of an image that shows nothing (`UnmarkedBank.likeness`).

The last two need the bank of the decoder (`unmarked_bank`). Each limit lies beyond all that the generator's own images
reached when the bank was made, so a badly trained decoder loosens the limits and does not lose images of users.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.common.images import to_uint8
from lightning_modules.fingerprints.decoders.base import KeyEstimate
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.unmarked_bank import UnmarkedBank, latent_distance

COLOURS = 5
"""An image of fewer colours is without content."""
DEVIATION = 1.0
"""In grey levels of 255: the deviation over an image, after a mean over 3 x 3 pixels, below which it shows nothing."""
FAR = 1.5
"""Times the largest distance of own images, in the space of the decoded latent."""
NEAR = 0.9
"""Cosine of log odds with those of an image that shows nothing, at which they are taken for the same; higher where the
generator's own images come nearer than twice that angle."""


@dataclass(frozen=True)
class Abstention:
    """Decides for which images no verdict is given.

    Attributes:
        fingerprint: that keys are read by.
        bank: of that fingerprint and of the network that reads keys; None looks at the images alone.
    """

    fingerprint: Fingerprint
    bank: UnmarkedBank | None = None

    def reasons(self, images: Tensor, estimate: KeyEstimate) -> list[str]:
        """Why there is no verdict on each of `(n, 3, H, W)` images in [0, 1] and its estimate; "" where there is one.

        What a search found is compared by its latents, what a network found by its alpha and by its log odds.
        """
        found = without_content(images)
        if self.bank is None:
            return found
        if estimate.latents is not None:
            distance, farthest = latent_distance(estimate.latents, self.fingerprint), self.bank.farthest_latent
            found = [reason or _far(float(d), farthest) for reason, d in zip(found, distance, strict=True)]
        if estimate.alpha is not None:
            distance, farthest = self.bank.alpha_distance(estimate.alpha), self.bank.farthest_alpha
            found = [reason or _far(float(d), farthest) for reason, d in zip(found, distance, strict=True)]
        if estimate.network_logits is not None:
            limit, names = self.likeness_limit, self.bank.names
            for logits in estimate.network_logits.unbind(dim=1):
                answers = zip(found, *self.bank.likeness(logits), strict=True)
                found = [
                    reason or (_like(names[int(row)], float(c)) if c > limit else "") for reason, c, row in answers
                ]
        return found

    @property
    def likeness_limit(self) -> float:
        """The cosine above which log odds are those of an image that shows nothing.

        Half the angle between the generator's own images and the nearest such image is the most.
        """
        if self.bank is None or not self.bank.degenerate:
            return 1.0
        nearest = max(-1.0, min(1.0, self.bank.nearest))
        return math.cos(min(math.acos(NEAR), 0.5 * math.acos(nearest)))


def without_content(images: Tensor) -> list[str]:
    """Why each of `(n, 3, H, W)` images in [0, 1], as 8-bit files hold them, shows nothing; "" for one that does."""
    levels = to_uint8(images)
    codes = (levels.long() * torch.tensor([65536, 256, 1], device=levels.device).view(1, 3, 1, 1)).sum(dim=1)
    grey = levels.float().mean(dim=1, keepdim=True)
    deviations = F.avg_pool2d(grey, min(3, *grey.shape[2:]), 1).flatten(1).std(dim=1, correction=0).tolist()
    reasons = []
    for code, deviation in zip(codes.flatten(1), deviations, strict=True):
        colours = _colours(code)
        if colours < COLOURS:
            reasons.append(f"abstained: no content: found {colours} colour{'s' if colours > 1 else ''} in the image")
        elif deviation < DEVIATION:
            reasons.append(f"abstained: no content: its grey varies by {deviation:.2g} of 255 levels")
        else:
            reasons.append("")
    return reasons


def _colours(codes: Tensor) -> int:
    """How many colours `(pixels,)` there are, counted up to `COLOURS`."""
    found = 0
    while len(codes) and found < COLOURS:
        codes = codes[codes != codes[0]]
        found += 1
    return found


def _far(distance: float, farthest: float) -> str:
    if not distance > FAR * farthest:
        return ""
    return (
        f"abstained: far from the generator's images: the decoded latent lies at a distance of {distance:.2g}, none of "
        f"theirs beyond {farthest:.2g}"
    )


def _like(name: str, cosine: float) -> str:
    return (
        f"abstained: far from the generator's images: the decoder answers as it does to {name}, which shows nothing "
        f"(cosine {cosine:.2f})"
    )
