"""Metrics of decoded keys that follow from one number an image: the p-value of its key (`metrics.evidence`).

States are whole numbers, so every metric is the same under any number of processes and any order of images.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.metrics.evidence import bit_weights, check_rate, cumulated, smallest_p_value, trusted
from lightning_modules.metrics.frechet import float64_scalar
from lightning_modules.metrics.intervals import Estimate, clopper_pearson, percent, proportion, wilson

_UNIT = 2.0**-40
"""Fixed point: sums of chances are exact in any order, to 1e-12 an image."""


class OfPValues(Metric):
    """Base of the metrics that add up a share of each image, in [0, 1], that depends on its p-value alone."""

    higher_is_better: bool | None = True
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, bits: int, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits, self.confidence = bits, confidence
        self._sums = (0, 0)
        for name in ("total", "count"):
            self.add_state(name, default=torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, p_values: Tensor) -> None:
        """Add images: `p_values` of the keys that they are compared with, float64 `(B,)` in (0, 1]."""
        shares = (self.shares(p_values.detach().cpu().double()) / _UNIT).round().long()
        self.total += shares.sum().to(self.total.device)
        self.count += len(p_values)

    def compute(self) -> Tensor:
        """The value: scalar float64, NaN without images."""
        self._sums = (int(self.total), int(self.count))
        return float64_scalar(self._estimate().value, self.device)

    def estimate(self) -> Estimate:
        """The value with its interval over images. All processes must call it together, as `compute`."""
        self.compute()
        return self._estimate()

    def _estimate(self) -> Estimate:
        total, count = self._sums
        return self.of_sum(total * _UNIT, count)

    @abstractmethod
    def shares(self, p_values: Tensor) -> Tensor:
        """What images count for, float64 `(B,)` in [0, 1]."""

    @abstractmethod
    def of_sum(self, total: float, n: int) -> Estimate:
        """The number and its interval, from the sum of n shares."""


class Identification(OfPValues):
    """Share of images whose best match among N registered `users` is their own, the others' keys being random.

    Each image contributes its exact chance over the others' keys, the mean that simulated registries tend to: none of
    the N - 1 others reaches a p-value that low with probability `(1 - p) ** (N - 1)`; ties are failures. For keys that
    were drawn with a minimum distance it is a lower bound of what is seen wherever fewer bits are wrong than half that
    distance. The interval is Wilson's as if each image were one trial: chances vary no more than trials of their mean
    do, so it is never too narrow.

    Raises:
        ValueError: fewer than two users, among whom nobody can be mistaken.
    """

    def __init__(self, bits: int, users: int, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(bits, confidence, **kwargs)
        if users < 2:
            raise ValueError(f"found {users} users to identify one among, expected at least 2")
        self.users = users

    def shares(self, p_values: Tensor) -> Tensor:
        """See the class."""
        return torch.exp((self.users - 1) * torch.log1p(-p_values))

    def of_sum(self, total: float, n: int) -> Estimate:
        """See the class."""
        low, high = wilson(min(total, n), n, self.confidence)
        details = {"users": self.users, "bits": self.bits}
        return Estimate(total / n if n else math.nan, low, high, n, f"wilson {percent(self.confidence)}", details)


class TruePositiveRate(OfPValues):
    """Share of images whose key's p-value is within a false-positive rate in (0, 1), Wilson interval.

    A rate of r / N is that of being named among N users at a family-wise rate of r. A key so short that not even all
    bits reach the rate (2^-m is above it) has the rate 0, and no interval: this is known, not measured.

    Raises:
        ValueError: a rate outside (0, 1).
    """

    def __init__(self, bits: int, false_positive_rate: float, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(bits, confidence, **kwargs)
        check_rate(false_positive_rate)
        self.false_positive_rate = false_positive_rate
        self.within_reach = smallest_p_value(bits) <= false_positive_rate

    def shares(self, p_values: Tensor) -> Tensor:
        """See the class."""
        return (p_values <= self.false_positive_rate).double()

    def of_sum(self, total: float, n: int) -> Estimate:
        """See the class."""
        details = {"false_positive_rate": self.false_positive_rate, "within_reach": self.within_reach}
        details["bits"] = self.bits
        if not self.within_reach:
            return Estimate(0.0 if n else math.nan, None, None, n, "none", details)
        return proportion(round(total), n, self.confidence, **details)


class FalsePositiveRate(TruePositiveRate):
    """Share of negatives that match convincingly all the same, Clopper-Pearson interval.

    Theory says at most the nominal rate, and just that but for ties of the evidence: `nominal_inside` tells whether the
    interval holds it. `exceeds_nominal` tells a broken promise: the whole interval lies above the nominal rate.

    Theory's randomness is that of keys, not of images: every negative must be compared with a random key of its own.
    Ten thousand negatives against one key are one draw, not ten thousand (`registry_estimates`).
    """

    higher_is_better = False

    def of_sum(self, total: float, n: int) -> Estimate:
        """See the class."""
        found, nominal = round(total), self.false_positive_rate
        low, high = clopper_pearson(found, n, self.confidence)
        details = {
            "false_positives": found,
            "nominal": nominal,
            "exceeds_nominal": low > nominal,
            "nominal_inside": low <= nominal <= high,
            "within_reach": self.within_reach,
            "bits": self.bits,
        }
        value = found / n if n else math.nan
        return Estimate(value, low, high, n, f"clopper-pearson {percent(self.confidence)}", details)


REGISTRIES = 1000
"""Random registries of one user each, with which all negatives of a kind are compared."""
REGISTRY_RATES = (5e-2, 1e-3)


def within_rates(logits: Tensor, keys: Tensor, rates: Sequence[float] = REGISTRY_RATES) -> NDArray[np.bool_]:
    """Whether the p-value of each of r keys is within each rate, of each image; bool `(rates, n, r)`.

    Args:
        logits: log odds of a 1 against a 0, `(n, m)`.
        keys: the same for all images, bool `(r, m)`.
        rates: below 1/2.
    """
    weights, bits, candidates = bit_weights(trusted(logits)), (logits > 0).cpu().numpy(), keys.cpu().numpy()
    found = np.zeros((len(rates), len(logits), len(keys)), dtype=bool)
    for place, (row, decoded) in enumerate(zip(weights, bits, strict=True)):
        chances = cumulated(row, int(row.sum()) // 2)  # at least 1/2 at its end
        against = (candidates != decoded) @ row
        for number, rate in enumerate(rates):
            found[number, place] = against < np.searchsorted(chances, rate, side="right")
    return found


def registry_estimates(positives: NDArray[np.int64], n: int, rate: float) -> dict[str, Estimate]:
    """How often negatives match the users of registries, in the mean and in the worst one, by name.

    What an unmarked image decodes to is no coin: the images of a kind are alike. A rate that holds over random keys can
    then be far off for all images against one key, and this says how far.

    Args:
        positives: of n images, those with a p-value within the rate, by registry, `(r,)`.
        n: images.
        rate: nominal.
    """
    shares = positives / n
    from scipy.stats import binom  # takes a second

    about: dict[str, Any] = {"nominal": rate, "registries": len(shares)}
    mean = Estimate(float(shares.mean()), None, None, n, "none", about)
    independent = float(binom.ppf(0.5 ** (1 / len(shares)), n, rate)) / n  # the median of the worst of so many
    about = {**about, "worst_if_independent": independent, "above_nominal": float((shares > rate).mean())}
    worst = Estimate(float(shares.max()), None, None, n, "none", about)
    return {"registry_false_positive_rate": mean, "worst_registry_false_positive_rate": worst}
