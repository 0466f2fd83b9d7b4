"""Metrics of decoded keys that follow from one table: how many images match their key in 0, 1, ..., m bits.

It holds integer counts, so every number is the same under any number of processes and any order of images.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from scipy.special import ndtri
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.metrics.frechet import float64_scalar
from lightning_modules.metrics.intervals import (
    Estimate,
    bits_needed,
    percent,
    proportion,
    student_half_width,
    wilson,
)
from lightning_modules.metrics.key_calibration import check_keys


class MatchingBits(Metric):
    """Base of the metrics that depend on each image's number of matching bits alone, of a key's `bits`.

    Raises:
        ValueError: fewer than one bit.
    """

    higher_is_better: bool | None = True
    full_state_update = False

    images: Tensor

    def __init__(self, bits: int, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if bits < 1:
            raise ValueError(f"found keys of {bits} bits, expected at least 1")
        self.bits, self.confidence = bits, confidence
        self._counts: list[int] = []
        self.add_state("images", default=torch.zeros(bits + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, keys: Tensor) -> None:
        """Add images: `logits` `(B, m)`, positive for a bit of 1, and the `keys` to compare with, bool `(B, m)`.

        Raises:
            ValueError: shapes other than these.
        """
        check_keys(logits, keys, self.bits)
        matching = ((logits > 0) == keys).sum(dim=1)
        self.images += torch.bincount(matching, minlength=self.bits + 1).to(self.images.device)

    def compute(self) -> Tensor:
        """The value: scalar float64, NaN without images."""
        self._counts = self.images.tolist()
        return float64_scalar(self.of_counts(self._counts).value, self.device)

    def estimate(self) -> Estimate:
        """The value with its interval over images. All processes must call it together, as `compute`."""
        self.compute()
        return self.of_counts(self._counts)

    @abstractmethod
    def of_counts(self, images: Sequence[int]) -> Estimate:
        """The number and its interval, where `images[k]` images match in k bits."""


class BitAccuracy(MatchingBits):
    """Matching bits / (n m).

    The bits of one image are no independent trials: an image that is decoded badly is wrong in many. The interval is
    Wilson's with the effective number of trials that the spread between images shows, `p (1 - p) / (S^2 / n)` with S^2
    the variance of the images' shares, corrected for the degrees of freedom of S (Korn and Graubard, "Confidence
    intervals for proportions with small expected number of positive counts estimated from survey data", Survey
    Methodology 1998; Wilson's in the place of Clopper's and Pearson's). It lies in [0, 1], where Student's does not.
    Images that all match alike, above all in every bit, show no spread: each then counts as one trial, as if its bits
    were all right or all wrong together, which is the least they can be worth.
    """

    def of_counts(self, images: Sequence[int]) -> Estimate:
        """See the class."""
        n = sum(images)
        details = {"bits": self.bits}
        if not n:
            return proportion(0, 0, self.confidence, **details)
        value = sum(k * count for k, count in enumerate(images)) / (n * self.bits)
        trials = effective_trials(images, self.confidence)
        low, high = wilson(value * trials, trials, self.confidence)
        name = f"wilson, clustered by image {percent(self.confidence)}"
        return Estimate(value, low, high, n, name, {**details, "effective_trials": trials})


class AttributionAccuracy(MatchingBits):
    """Share of images of which all m bits match (Nie et al. 2023, equation 1), Wilson interval."""

    def of_counts(self, images: Sequence[int]) -> Estimate:
        """See the class."""
        return proportion(images[self.bits], sum(images), self.confidence, bits=self.bits)


class MatchedTruePositiveRate(MatchingBits):
    """Share of images with so many matching bits that chance explains them at a false-positive rate alone, Wilson's.

    This is the test of Nie et al. 2023, which weighs all bits alike and stands beside `TruePositiveRate`, whose
    p-values weigh them, for comparison. The threshold is theory's (`bits_needed`). A key so short that no match is
    convincing has the rate 0, and no interval: this is known, not measured.
    """

    def __init__(self, bits: int, false_positive_rate: float, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(bits, confidence, **kwargs)
        self.false_positive_rate = false_positive_rate
        self.needed = bits_needed(bits, false_positive_rate)

    def of_counts(self, images: Sequence[int]) -> Estimate:
        """See the class."""
        details = {"false_positive_rate": self.false_positive_rate, "bits_needed": self.needed, "bits": self.bits}
        if self.needed is None:
            return Estimate(0.0 if sum(images) else math.nan, None, None, sum(images), "none", details)
        return proportion(sum(images[self.needed :]), sum(images), self.confidence, **details)


def effective_trials(images: Sequence[int], confidence: float = 0.95) -> float:
    """How many independent bits the images are worth, as their spread shows (see `BitAccuracy`).

    `images` says how many match in 0 to m bits. The result is at most n m, and n where there is one image or no spread.
    """
    n, m = sum(images), len(images) - 1
    total = sum(k * count for k, count in enumerate(images))
    spread = n * sum(k * k * count for k, count in enumerate(images)) - total * total  # S^2 n (n - 1) m^2, an integer
    if n < 2 or not spread:
        return float(n)
    trials = min(n * m, total * (n * m - total) * (n - 1) / spread)
    degrees_lost = float(ndtri(0.5 + confidence / 2)) / student_half_width(1.0, n - 1, confidence)
    return trials * degrees_lost**2
