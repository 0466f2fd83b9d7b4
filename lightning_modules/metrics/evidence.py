"""How much decoded log odds say for a key, and how likely a random key does as well: exact for any log odds.

Each bit of an image has a whole weight that grows with its log odds; weights of an image add up to about `GRID`. What
counts against a key is the weight of the bits in which it differs from the decoded ones. A key that has nothing to do
with the image is m independent fair coins, so its weight against is a sum of the weights with a fair coin each,
whatever the image and the decoder. The p-value is the chance that this sum is no larger than the one observed. The
distribution of a sum of whole numbers follows by one shift and one addition a bit; all terms are positive, so that
rounding costs 1e-13 of the value however small it is.

Ties count as reached, hence P(p-value <= r) <= r for every r under the null hypothesis. Log odds need not be calibrated
for that; the better they are, the more keys of true owners stand out.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GRID = 2**18
"""What the weights of an image add up to, but for rounding: a log odd is kept to 1 / 262,144 of their sum."""
TYPICAL_LOG_ODDS = 8.0
"""The median over the bits of an image is at most this (wrong once in 3,000), so that no image shouts down others."""
MOST_MEDIANS = 8.0
"""A bit counts for at most so many medians of its image, so that none outweighs the rest."""


def trusted(logits: Tensor) -> Tensor:
    """What log odds of images `(n, m)` are taken for, float64, each image by itself.

    Calibrated log odds pass as they are. Searches state some of hundreds: their image is scaled down as a whole, which
    keeps the ratios between bits. Log odds that are NaN say nothing.
    """
    odds = logits.detach().cpu().double().nan_to_num(nan=0.0, posinf=1e30, neginf=-1e30)
    median = torch.from_numpy(np.median(odds.abs().numpy(), axis=1, keepdims=True))
    most = torch.where(median > 0, MOST_MEDIANS * median, torch.inf)
    return odds.clamp(-most, most) * (TYPICAL_LOG_ODDS / median).clamp(max=1.0)


def bit_weights(logits: Tensor) -> NDArray[np.int64]:
    """Weights of bits, int64 `(n, m)`, from `trusted` log odds or sums of them `(n, m)`; 0 where all of a row are 0.

    Each row's follow from its own log odds alone, whatever the batch.
    """
    sizes = logits.abs().numpy()
    sums = np.array([math.fsum(row) for row in sizes])  # rounded once, in whatever order bits come
    unit = np.divide(GRID, sums, out=np.zeros_like(sums), where=sums > GRID * np.finfo(np.float64).tiny)
    weights: NDArray[np.int64] = np.rint(sizes * unit[:, None]).astype(np.int64)
    return weights


def weight_against(weights: NDArray[np.int64], bits: Tensor, keys: Tensor) -> NDArray[np.int64]:
    """Weight of the bits in which keys differ from decoded ones, int64 `(n,)`; everything else is `(n, m)`."""
    differing = (bits.cpu() != keys.cpu()).numpy()
    found: NDArray[np.int64] = np.where(differing, weights, 0).sum(axis=1)
    return found


def cumulated(weights: NDArray[np.int64], most: int) -> NDArray[np.float64]:
    """Chance that a random key has at most a weight of 0, 1, ..., `most` against it, float64 `(most + 1,)`.

    `weights` are those of one image, `(m,)`.
    """
    taking_part = np.sort(weights[weights > 0])
    scale = min(len(taking_part), 1000)  # 2^-1000 is a number, 2^-1100 none
    chances = np.zeros(most + 1)
    chances[0] = 0.5**scale
    reached = 0
    for weight in taking_part[taking_part <= most].tolist():
        end = min(reached + weight, most)
        chances[weight : end + 1] += chances[: end + 1 - weight].copy()
        reached = end
    return np.cumsum(chances) * 0.5 ** (len(taking_part) - scale)


def p_value(weights: NDArray[np.int64], against: int) -> float:
    """Chance that a random key has as little weight against it, in (0, 1]; of one image with weights `(m,)`."""
    total = int(weights.sum())
    if against >= total:
        return 1.0
    return min(1.0, float(cumulated(weights, against)[-1]))


def p_values(logits: Tensor, keys: Tensor) -> Tensor:
    """Of each image, the chance that a random key agrees as well with its log odds as its key does; float64 `(n,)`.

    Args:
        logits: log odds of a 1 against a 0, `(n, m)`.
        keys: the keys to test, bool `(n, m)`.
    """
    weights = bit_weights(trusted(logits))
    against = weight_against(weights, logits > 0, keys)
    found = [p_value(row, int(weight)) for row, weight in zip(weights, against, strict=True)]
    return torch.tensor(found, dtype=torch.float64)


LEADING_SHARES = (0.5, 0.25)
"""Of a false-positive rate, what a decoder's answer and the image as it is may use up; other readings share the rest
alike."""
MOST_TESTED = len(LEADING_SHARES) + 1
"""Readings of an image whose exact p-values are taken, at most (`worth_testing`)."""


def share_of(reading: int, readings: int) -> float:
    """The share of a false-positive rate that one of several readings of an image is tested at; they add up to 1.

    Weighted Bonferroni (Genovese, Roeder and Wasserman 2006): the smallest p-value divided by its share is a p-value,
    however the readings depend on each other. The decoder's answer, reading 0, is the likeliest one to be right: what
    it makes of the reading that it chose, a choice in which no key has a part. Then comes the image as it is.
    """
    leading = LEADING_SHARES[: readings - 1]
    if reading < len(leading):
        return leading[reading]
    return (1.0 - sum(leading)) / (readings - len(leading))


def worth_testing(weights: NDArray[np.int64], against: NDArray[Any]) -> list[int]:
    """Readings whose exact p-values are taken: the leading ones, and the one that stands best of all others.

    Whichever that is, the least of theirs is no smaller than the least of all readings', so that a test by it keeps to
    the rate.

    Args:
        weights: of r readings, `(r, m)`.
        against: weight against a key by reading, `(r,)`; each reading may have a key of its own.
    """
    leading = min(len(LEADING_SHARES), len(weights))
    others = standing(weights[leading:], against[leading:])
    return [*range(leading), *([leading + int(others.argmin())] if len(others) else [])]


def standing(weights: NDArray[np.int64], against: NDArray[Any]) -> NDArray[np.float64]:
    """Weight against keys, in standard deviations of that of random keys from its mean; the lower, the better.

    Args:
        weights: of r readings, `(r, m)`.
        against: of a key by reading, `(r,)`.
    """
    deviation = 0.5 * np.sqrt(np.square(weights.astype(np.float64)).sum(axis=1))
    distance = against - 0.5 * weights.sum(axis=1)
    found: NDArray[np.float64] = np.divide(distance, deviation, out=np.zeros(len(weights)), where=deviation > 0)
    return found


def p_values_of_readings(readings: Tensor, keys: Tensor) -> Tensor:
    """Of each image, the p-value of its key by several readings of the image (`share_of`); float64 `(n,)`.

    Args:
        readings: log odds by reading, `(n, r, m)`: the decoder's answer, the image as it is, then others.
        keys: the keys to test, bool `(n, m)`.
    """
    found = []
    for odds, key in zip(readings, keys, strict=True):
        weights = bit_weights(trusted(odds))
        against = weight_against(weights, odds > 0, key.expand(len(odds), -1))
        tried = worth_testing(weights, against)
        chances = [p_value(weights[one], int(against[one])) / share_of(one, len(odds)) for one in tried]
        found.append(min(1.0, *chances))
    return torch.tensor(found, dtype=torch.float64)


def check_rate(false_positive_rate: float) -> None:
    """Refuse, by a ValueError, a false-positive rate outside (0, 1)."""
    if not 0.0 < false_positive_rate < 1.0:
        raise ValueError(f"found false-positive rate {false_positive_rate}, expected a number between 0 and 1")


def most_users(bits: int, false_positive_rate: float) -> int:
    """Most users among whom keys of so many bits can name one at a family-wise rate.

    The p-value is at least 2^-m, where all bits agree; times the users it is to stay within the rate.

    Raises:
        ValueError: a rate outside (0, 1).
    """
    check_rate(false_positive_rate)
    return int(Fraction(false_positive_rate) * 2**bits)


def smallest_p_value(bits: int) -> float:
    """The smallest p-value that a key of so many bits can reach: 2^-m, where all of them agree."""
    return math.ldexp(1.0, -bits)
