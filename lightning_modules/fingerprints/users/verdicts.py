"""From decoded log odds to a verdict: how likely is so good a match by chance, and whose key is it.

Under the null hypothesis the image does not carry the user's key. Keys are independent fair bits, so whatever log odds
a decoder gives, the chance that a random key agrees with them as well as the user's does follows exactly
(`metrics.evidence`). The p-values need no assumption about images or decoders, and no calibration on negatives: only
that keys were drawn at random. Keys of which a share q is drawn again (`key_checks`) raise them by a factor of at most
1 / (1 - q), 1.001 for the banks that ship.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.fingerprints.users.keys import (
    Packed,
    distances,
    least_weights_against,
    pack_key,
    packed_bytes,
    weights_against,
)
from lightning_modules.metrics.evidence import (
    MOST_TESTED,
    bit_weights,
    check_rate,
    p_value,
    share_of,
    trusted,
    worth_testing,
)


@dataclass(frozen=True)
class Verdict:
    """What decoded log odds say about a registry, at the false-positive rate that it keeps to."""

    user: str | None  # the best matching one where the match is convincing, else None: no verdict
    best_user: str | None  # the best matching one in any case; None for an empty registry
    matching_bits: int  # of that user's key, for information: the verdict weighs each bit by its log odds
    bits: int
    p_value: float  # chance that a random key agrees as well with the log odds as that user's
    family_p_value: float  # chance that any of so many random keys does, by Bonferroni
    false_positive_rate: float


def attribute(
    logits: Tensor,
    names: Sequence[str],
    keys: Packed,
    false_positive_rate: float = 1e-6,
    others: Tensor | None = None,
) -> Verdict:
    """Name the user whose key the log odds speak for, or nobody.

    Two users whose keys agree equally well cannot be told apart: there is no verdict then, whatever the p-value.

    Args:
        logits: a decoder's log odds of a 1 against a 0 in an image, `(m,)`; or in several that carry one key, `(n, m)`.
        names: the users.
        keys: their keys, packed, uint8 `(users, ceil(m / 8))`.
        false_positive_rate: largest chance, over all users together, of naming anybody for an image without key.
        others: log odds of the same images read in r other ways, as they are first, `(r, m)` or `(r, n, m)`; p-values
            are corrected for the number of readings (`metrics.evidence.share_of`).

    Raises:
        ValueError: keys of another length, or a rate outside (0, 1).
    """
    bits = logits.shape[-1]
    given = [logits, *(() if others is None else others)]
    evidence = torch.stack([combine(reading.reshape(-1, bits)) for reading in given])
    if keys.shape != (len(names), packed_bytes(bits)):
        raise ValueError(
            f"found {bits} log odds and packed keys {tuple(keys.shape)} for {len(names)} users, expected keys "
            f"({len(names)}, {packed_bytes(bits)})"
        )
    check_rate(false_positive_rate)
    if not names:
        return Verdict(None, None, 0, bits, 1.0, 1.0, false_positive_rate)
    weights, decoded = bit_weights(evidence), evidence > 0
    tried = list(range(len(weights)))
    if len(tried) > MOST_TESTED:
        tried = worth_testing(weights, least_weights_against(weights, decoded.numpy(), keys))
    matches = [_best_match(weights[one], decoded[one], keys) for one in tried]
    chances = [
        p_value(weights[one], match.against) / share_of(one, len(weights))
        for one, match in zip(tried, matches, strict=True)
    ]
    chosen = int(np.argmin(chances))
    reading, chance, (place, _, alone) = tried[chosen], min(1.0, *chances), matches[chosen]
    family = family_p_value(chance, len(names))
    matching = bits - int(distances(pack_key(decoded[reading]), keys[place : place + 1])[0])
    best = names[place]
    named = best if alone and family <= false_positive_rate else None
    return Verdict(named, best, matching, bits, chance, family, false_positive_rate)


class _Match(NamedTuple):
    place: int
    against: int  # weight against that user's key, the least of all
    alone: bool  # whether no other user's key has as little


def _best_match(weights: NDArray[np.int64], decoded: Tensor, keys: Packed) -> _Match:
    against = weights_against(weights, decoded, keys)
    place = int(against.argmin())
    return _Match(place, int(against[place]), int(np.count_nonzero(against == against[place])) == 1)


def combine(logits: Tensor) -> Tensor:
    """Log odds of images that carry one key, together: the sum of what each says, float64 `(m,)`.

    One estimate is made first and tested once. Adding up matches over the images would count what a decoder always
    answers as often as there are images, which is no evidence; this cannot happen here. What an image states is taken
    for what `metrics.evidence.trusted` says.

    Args:
        logits: `(n, m)`, log odds of a 1 against a 0.
    """
    return trusted(logits).sum(dim=0)


def family_p_value(p_value: float, users: int) -> float:
    """Bonferroni's correction of the smallest of `users` p-values: valid however the keys depend on each other."""
    return min(1.0, p_value * users)
