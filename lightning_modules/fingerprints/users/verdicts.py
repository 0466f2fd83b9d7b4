"""From decoded bits to a verdict: how likely is so good a match by chance, and whose key is it.

Under the null hypothesis the image does not carry the user's key. The keys are independent fair bits, so whatever bits
a decoder returns, the number that match one user's key is binomial with probability 1/2. The p-values need no
assumption about images or decoders, and no calibration on negatives: only that keys were drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.metrics.intervals import bits_needed, match_p_value

__all__ = ["Verdict", "attribute", "bits_needed", "combine", "family_p_value", "match_p_value", "matching_bits"]

KEYS_AT_ONCE = 65_536  # keys compared in one step: a registry of a million needs no million floats per bit


def family_p_value(p_value: float, users: int) -> float:
    """Bonferroni's correction of the smallest of `users` p-values: valid however the keys depend on each other."""
    return min(1.0, p_value * users)


@dataclass(frozen=True)
class Verdict:
    """What decoded bits say about a registry, at the false-positive rate that it keeps to."""

    user: str | None  # the best matching one where the match is convincing, else None: no verdict
    best_user: str | None  # the best matching one in any case; None for an empty registry
    matching_bits: int
    bits: int
    p_value: float  # chance of so good a match with that user's key alone
    family_p_value: float  # chance of so good a match with any user's key, by Bonferroni
    false_positive_rate: float


def attribute(bits: Tensor, names: Sequence[str], keys: Tensor, false_positive_rate: float = 1e-6) -> Verdict:
    """Name the user whose key the bits hold, or nobody.

    Two users with equally many matching bits cannot be told apart: there is no verdict then, whatever the p-value.

    Args:
        bits: decoded bits, bool `(m,)`.
        names: the n users.
        keys: their keys, bool `(n, m)`.
        false_positive_rate: largest chance, over all users together, of naming anybody for an image without key.

    Raises:
        ValueError: keys of another length, or a rate outside (0, 1).
    """
    if len(names) != len(keys) or keys.shape[1] != len(bits):
        raise ValueError(f"found {len(bits)} bits and keys {tuple(keys.shape)} for {len(names)} users, expected to fit")
    needed = bits_needed(len(bits), false_positive_rate, max(1, len(names)))
    if not names:
        return Verdict(None, None, 0, len(bits), 1.0, 1.0, false_positive_rate)
    matching = matching_bits(bits, keys)
    best, count = names[int(matching.argmax())], int(matching.max())
    convincing = needed is not None and count >= needed and int((matching == count).sum()) == 1
    p_value = match_p_value(count, len(bits))
    family = family_p_value(p_value, len(names))
    return Verdict(best if convincing else None, best, count, len(bits), p_value, family, false_positive_rate)


def combine(logits: Tensor) -> Tensor:
    """Bits of several images that are taken to carry one key: the sign of the sum of their logits, bool `(m,)`.

    One estimate is made first and tested once. Adding up matches over the images would count what a decoder always
    answers as often as there are images, which is no evidence; this cannot happen here.

    Args:
        logits: `(n, m)`, positive for 1, in units of evidence (log odds).
    """
    return logits.sum(dim=0) > 0


def matching_bits(bits: Tensor, keys: Tensor) -> Tensor:
    """Bits that match each of many keys: bits `(m,)` and keys `(n, m)`, bool; returns int64 `(n,)`."""
    return torch.cat([(some == bits).sum(dim=1) for some in torch.split(keys, KEYS_AT_ONCE)])
