"""Confidence intervals, and the `Estimate` every reported number is: value, interval, n.

Sources: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927; Clopper and
    Pearson, "The use of confidence or
fiducial limits illustrated in the case of the binomial", Biometrika 1934; Brown, Cai and DasGupta, "Interval
estimation for a binomial proportion", Statistical Science 2001 (why Wilson is the default here: its coverage stays
near the nominal one at small n and near 0 and 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri, stdtrit

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
        """Refuse details that would hide a field of the estimate."""
        clash = [key for key in _RESERVED if key in self.details]
        if clash:
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
        missing = [key for key in _RESERVED if key not in entry]
        if missing:
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
    """Wilson score interval of a proportion (Wilson 1927), without continuity correction.

    Args:
        successes: how many of the `n` independent trials succeeded; a fraction where `n` is an effective number.
        n: number of trials; with 0 trials nothing is known and the interval is (0, 1).
        confidence: nominal coverage in (0, 1).

    Returns:
        Lower and upper end, within [0, 1].

    Raises:
        ValueError: the counts or the confidence make no sense.
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
    """Exact (conservative) interval of a proportion (Clopper and Pearson 1934).

    Args:
        successes: how many of the `n` independent trials succeeded.
        n: number of trials; with 0 trials the interval is (0, 1).
        confidence: guaranteed coverage in (0, 1).

    Returns:
        Lower and upper end, within [0, 1].

    Raises:
        ValueError: the counts or the confidence make no sense.
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
    """Mean and sample standard deviation (n - 1 in the denominator), as tables over seeds show them.

    Args:
        values: one number per seed, at least one.

    Returns:
        The mean, and the standard deviation or None where a single value says nothing about spread.

    Raises:
        ValueError: no value given.
    """
    if not values:
        raise ValueError("found no value to average; expected one per seed")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def student_half_width(std_error: float, degrees: int, confidence: float = 0.95) -> float:
    """Half the width of a Student-t interval: `t_{degrees, (1 + confidence) / 2} * std_error`."""
    _z(confidence)
    return float(stdtrit(degrees, 0.5 + confidence / 2)) * std_error


def match_p_value(matching: int, bits: int) -> float:
    """Probability that at least so many of `bits` fair bits match by chance.

    Raises:
        ValueError: more matches than bits, or a negative number.
    """
    if not 0 <= matching <= bits:
        raise ValueError(f"found {matching} matching of {bits} bits, expected 0 to {bits}")
    binom = _binomial()
    return float(binom.sf(matching - 1, bits, 0.5))


def bits_needed(bits: int, false_positive_rate: float, users: int = 1) -> int | None:
    """Fewest matching bits whose p-value, times the number of users, stays within a false-positive rate.

    Returns:
        The number; None where not even a match of all bits is enough.

    Raises:
        ValueError: a rate outside (0, 1).
    """
    if not 0.0 < false_positive_rate < 1.0:
        raise ValueError(f"found false-positive rate {false_positive_rate}, expected a number between 0 and 1")
    binom = _binomial()
    p_values = binom.sf(np.arange(bits + 1) - 1, bits, 0.5) * users
    enough = np.flatnonzero(p_values <= false_positive_rate)
    return int(enough[0]) if len(enough) else None


def alone_at_the_top(bits: int, users: int) -> NDArray[np.float64]:
    """Probability that no other user's key matches as well, by number of bits that match one's own.

    The others hold independent random keys, so with k matching bits none of the N - 1 others reaches k with probability
    `(1 - P(Bin(m, 1/2) >= k)) ** (N - 1)`: exact, where a simulation would need N keys for every image. An equally good
    match of another counts as a failure.

    Args:
        bits: length m of a key.
        users: N, the holder of the true key among them.

    Returns:
        float64 `(m + 1,)`, entry k for k matching bits.

    Raises:
        ValueError: fewer than two users, among whom nobody can be mistaken.
    """
    if users < 2:
        raise ValueError(f"found {users} users to identify one among, expected at least 2")
    binom = _binomial()
    tails = binom.sf(np.arange(bits + 1) - 1, bits, 0.5)
    with np.errstate(divide="ignore"):  # log(0) at k = 0, where every other matches as well
        return np.asarray(np.exp((users - 1) * np.log1p(-tails)), dtype=np.float64)


def _binomial() -> Any:
    """Scipy's distribution, imported late: it takes a second, which commands that only read estimates do not pay."""
    from scipy.stats import binom

    return binom
