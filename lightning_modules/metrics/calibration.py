"""How far stated probabilities are from shares of right answers: expected calibration error, and the temperature.

Sources: Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015; Guo et al., "On
calibration of modern neural networks", ICML 2017 (15 bins; a single temperature fitted on validation images).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.metrics.frechet import float64_scalar
from lightning_modules.metrics.intervals import Estimate, percent, wilson

BINS = 15
_UNIT = 2.0**-31  # sums are integers, as in `CrossEntropy`: any order of batches gives the same digits
_LARGEST_LOG = math.log(50.0)  # of a temperature, either way


class CalibrationError(Metric):
    """Expected calibration error of the named source: the mean over images of |confidence - accuracy| of its bin.

    Bins are of equal width, `torchmetrics`' (`MulticlassCalibrationError`, norm l1). The confidence is the largest
    probability.
    """

    higher_is_better = False
    full_state_update = False

    counts: Tensor
    confidence_sums: Tensor
    right: Tensor
    squares: Tensor
    noise: Tensor

    def __init__(self, bins: int = BINS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins = bins
        for name in ("counts", "confidence_sums", "right", "squares", "noise"):
            self.add_state(name, default=torch.zeros(bins, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: `preds` `(B, K)` logits, `target` `(B,)` integer labels."""
        probabilities = preds.detach().double().softmax(dim=1)
        confidence, named = probabilities.max(dim=1)
        right = (named == target).long()
        edges = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64, device=confidence.device)
        place = (torch.bucketize(confidence, edges, right=True) - 1).clamp(0, self.bins - 1)
        columns = {
            "counts": torch.ones_like(right),
            "confidence_sums": (confidence / _UNIT).round().long(),
            "right": right,
            "squares": ((confidence - right).square() / _UNIT).round().long(),
            "noise": (confidence * (1 - confidence) / _UNIT).round().long(),
        }
        for name, values in columns.items():
            state = getattr(self, name)
            state.scatter_add_(0, place.to(state.device), values.to(state.device))

    def compute(self) -> Tensor:
        """The error, scalar float64; NaN without images."""
        n = int(self.counts.sum())
        gaps = (self.confidence_sums.double() * _UNIT - self.right.double()).abs().sum()
        return float64_scalar(float(gaps) / n if n else math.nan, self.device)

    def estimate(self, confidence: float = 0.95) -> Estimate:
        """The error with its interval. All processes must call it together, as `compute`.

        The error is the mean over images of s (confidence - right) with the sign s of the image's bin; the interval is
        the normal one of that mean (what a bootstrap tends to where the signs are certain). Rounding of shares alone
        makes any error positive: `calibrated` in the details is what images whose probabilities are exactly right
        would give on average, sum over bins of sqrt(2/pi) times the deviation of the gap.
        """
        value, n = float(self.compute()), int(self.counts.sum())
        if n < 2:
            return Estimate(value, None, None, n, "none", {"bins": self.bins})
        variance = max(0.0, float(self.squares.sum()) * _UNIT / n - value**2)
        half = _normal(confidence) * math.sqrt(variance / (n - 1))
        expected = float((self.noise.double() * _UNIT).clamp(min=0).sqrt().sum()) * math.sqrt(2 / math.pi) / n
        ends = max(0.0, value - half), min(1.0, value + half)
        details = {"bins": self.bins, "calibrated": expected}
        return Estimate(value, *ends, n, f"normal {percent(confidence)}", details)

    def reliability(self) -> list[dict[str, float]]:
        """Of each bin with images: mean confidence, share of right answers with its Wilson interval, and n."""
        rows = []
        for count, total, right in zip(
            self.counts.tolist(), self.confidence_sums.tolist(), self.right.tolist(), strict=True
        ):
            if count:
                low, high = wilson(right, count)
                row = {"confidence": total * _UNIT / count, "accuracy": right / count, "low": low, "high": high}
                rows.append({**row, "n": count})
        return rows


def _normal(confidence: float) -> float:
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(confidence, dtype=torch.float64)))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T of the greatest likelihood of `softmax(logits / T)`, between 1/50 and 50 (Guo et al. 2017, Sec. 4.2).

    Args:
        logits: (N, K), of images that nothing was trained on.
        labels: (N,) of them.

    The loss is convex in 1/T, so the search finds its minimum; 1 without images.
    """
    if not len(labels):
        return 1.0
    values, truth = logits.double().cpu().numpy(), labels.cpu().numpy()

    def loss(log_temperature: float) -> float:
        logs = log_softmax(values * math.exp(-log_temperature), axis=1)
        return -float(np.mean(logs[np.arange(len(truth)), truth]))

    found = minimize_scalar(loss, bounds=(-_LARGEST_LOG, _LARGEST_LOG), method="bounded", options={"xatol": 1e-7})
    return float(math.exp(found.x)) if loss(float(found.x)) < loss(0.0) else 1.0
