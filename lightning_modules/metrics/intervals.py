"""Confidence intervals, and the `Estimate` every reported number is: value, interval, n.

Sources: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927; Clopper and Pearson,
"The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 1934; Brown, Cai and
DasGupta, "Interval estimation for a binomial proportion", Statistical Science 2001 (why Wilson is the default here: its
coverage stays near the nominal one at small n and near 0 and 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri, stdtrit

TRAINING_IMAGES = "test/training_images"
"""Name of the share of test images that the training has seen; where there are none, the number is left out."""
_RESERVED = ("value", "low", "high", "n", "interval")


@dataclass(frozen=True)
class Estimate:
    """One number of a report.

    Attributes:
        value: the number itself; NaN where it is not defined (the recall of a class without images).
        low: lower end of the interval, or None where there is none.
        high: upper end of the interval, or None where there is none.
        n: how many samples `value` was computed from.
        interval: what the interval is, in words a reader understands: `"wilson 95%"`, or `"none"`.
        details: whatever else belongs beside the number; JSON values.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    interval: str
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if clash := [key for key in _RESERVED if key in self.details]:
            raise ValueError(
                f"details of an Estimate hold {clash}, which are fields of the estimate itself; rename them"
            )

    def to_json(self) -> dict[str, Any]:
        """The entry of `metrics.json`: the five fields, then the details; NaN and infinity become null."""
        fields = {"value": _finite(self.value), "low": _finite(self.low), "high": _finite(self.high)}
        return {**fields, "n": self.n, "interval": self.interval, **self.details}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Estimate:
        """The inverse of `to_json`: null values come back as NaN.

        Raises:
            ValueError: a field is missing.
        """
        if missing := [key for key in _RESERVED if key not in entry]:
            raise ValueError(
                f"not an estimate: {missing} missing, found {sorted(entry)}; expected {list(_RESERVED)} and details"
            )
        value = math.nan if entry["value"] is None else float(entry["value"])
        details = {key: item for key, item in entry.items() if key not in _RESERVED}
        return cls(value, entry["low"], entry["high"], int(entry["n"]), str(entry["interval"]), details)


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def percent(confidence: float) -> str:
    """`0.95` as `"95%"`, `0.999` as `"99.9%"`."""
    return f"{100 * confidence:.10g}%"


def _z(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1, such as 0.95")
    return float(ndtri(0.5 + confidence / 2))


def _check_counts(successes: float, n: float) -> None:
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"found {successes} successes of {n}; expected 0 <= successes <= n")


def wilson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Lower and upper end in [0, 1] of the Wilson interval of a proportion, without continuity correction.

    With 0 trials it is (0, 1); counts may be fractions where `n` is an effective number of trials.

    Raises:
        ValueError: the counts make no sense, or the confidence is not in (0, 1).
    """
    _check_counts(successes, n)
    z = _z(confidence)
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the borders the ends are exactly 0 and 1; rounding must not put the value outside its own interval.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Lower and upper end in [0, 1] of the exact (conservative) interval of a proportion; (0, 1) with 0 trials.

    Raises:
        ValueError: the counts make no sense, or the confidence is not in (0, 1).
    """
    _check_counts(successes, n)
    _z(confidence)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return low, high


def proportion(successes: int, n: int, confidence: float = 0.95, **details: Any) -> Estimate:
    """A proportion with its Wilson interval; with no trials the value is NaN and the interval (0, 1)."""
    low, high = wilson(successes, n, confidence)
    value = successes / n if n else math.nan
    return Estimate(value, low, high, n, f"wilson {percent(confidence)}", details)


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and sample standard deviation (n - 1 in the denominator) or None of a single value.

    Raises:
        ValueError: no value given.
    """
    if not values:
        raise ValueError("found no value to average; expected one per seed")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def student_interval(mean: float, squares: float, n: int, confidence: float) -> tuple[float, float]:
    """Half the width of the Student interval of a mean over n > 1 samples, and their standard deviation.

    `squares` is the sum of the squared samples.
    """
    variance = max(0.0, squares - n * mean * mean) / (n - 1)
    return student_half_width(math.sqrt(variance / n), n - 1, confidence), math.sqrt(variance)


def student_half_width(std_error: float, degrees: int, confidence: float = 0.95) -> float:
    """Half the width of a Student-t interval: `t_{degrees, (1 + confidence) / 2} * std_error`."""
    _z(confidence)
    return float(stdtrit(degrees, 0.5 + confidence / 2)) * std_error


def bits_needed(bits: int, false_positive_rate: float, users: int = 1) -> int | None:
    """Fewest matching bits whose p-value, times the users, stays within a false-positive rate; None where none suffice.

    Raises:
        ValueError: a rate outside (0, 1).
    """
    if not 0.0 < false_positive_rate < 1.0:
        raise ValueError(f"found false-positive rate {false_positive_rate}, expected a number between 0 and 1")
    enough = np.flatnonzero(_tails(bits) * users <= false_positive_rate)
    return int(enough[0]) if len(enough) else None


@cache
def _tails(bits: int) -> NDArray[np.float64]:
    """Probability of at least k heads of so many coins, by k: `(bits + 1,)`."""
    from scipy.stats import binom  # takes a second, which commands that only read estimates do not pay

    return np.asarray(binom.sf(np.arange(bits + 1) - 1, bits, 0.5))
