"""Detection by a score: area under the ROC curve, and what lies above a threshold set at a false-positive rate.

Sources: Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2",
Statistics in Medicine 2006 (its method 5); Vovk et al., "Algorithmic learning in a random world", 2005 (thresholds);
Yang et al., "OpenOOD", NeurIPS 2022 (what is reported).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import rankdata

from lightning_modules.metrics.intervals import Estimate, percent, proportion

FALSE_POSITIVE_RATE = 0.05
"""At which thresholds are set on validation images."""
_INSIDE = 1e-12
Scores = NDArray[np.float64]


def area_under_roc(positive: Scores, negative: Scores, confidence: float = 0.95) -> Estimate:
    """Probability that a positive's score is above a negative's, ties counted half.

    The interval (Newcombe's method 5) inverts the variance of the area under negative exponential scores; it keeps its
    coverage near 1, where that of the estimated variance has no width. Its n is that of both together.

    Args:
        positive: Scores `(P,)` of what is to be found.
        negative: Scores `(N,)` of the others.
        confidence: Nominal coverage of the interval.
    """
    p, n = len(positive), len(negative)
    if not p or not n:
        return Estimate(math.nan, None, None, p + n, "none", {"positives": p, "negatives": n})
    ranks = rankdata(np.concatenate([positive, negative]))[:p]
    area = float((ranks.sum() - p * (p + 1) / 2) / (p * n))
    z, mean = float(ndtri(0.5 + confidence / 2)), (p + n) / 2 - 1

    def variance(theta: float) -> float:
        return theta * (1 - theta) * (1 + mean * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (p * n)

    def end(towards: float) -> float:
        def gap(theta: float) -> float:
            return abs(theta - area) - z * math.sqrt(variance(theta))

        inside = min(max(area, _INSIDE), 1 - _INSIDE)  # at 0 and 1 themselves the variance is none
        return towards if gap(towards) <= 0 else float(brentq(gap, inside, towards))

    details = {"positives": p, "negatives": n}
    return Estimate(area, end(0.0), end(1.0), p + n, f"newcombe {percent(confidence)}", details)


def threshold_at(negative: Scores, rate: float = FALSE_POSITIVE_RATE) -> float:
    """The score above which a new negative, exchangeable with these, lies with a probability of at most `rate`.

    The ceil((1 - rate)(n + 1))-th smallest of n scores (split conformal prediction): the promise holds on average over
    draws of the n. Infinite where they are too few (19 for 5 %): nothing can then be found at this rate.
    """
    order = math.ceil((1 - rate) * (len(negative) + 1) - 1e-9)
    return math.inf if order > len(negative) else float(np.sort(negative)[order - 1])


def above(scores: Scores, threshold: float) -> Estimate:
    """Share of scores above a threshold, Wilson interval; the threshold among the details."""
    return proportion(int((scores > threshold).sum()), len(scores), threshold=threshold)


def detection_estimates(
    positive: Scores, negative: Scores, threshold: float, rate: float = FALSE_POSITIVE_RATE
) -> dict[str, Estimate]:
    """`auroc`; and at a threshold that was set elsewhere, if it is finite, `tpr_at_5_fpr` and the `fpr` found here."""
    found = {"auroc": area_under_roc(positive, negative)}
    if math.isfinite(threshold) and len(positive) and len(negative):
        found[f"tpr_at_{100 * rate:g}_fpr"] = above(positive, threshold)
        found["fpr"] = above(negative, threshold)
    return found


def log_odds(logits: Scores, inside: NDArray[np.bool_]) -> Scores:
    """Logarithm of p / (1 - p), p the probability of the sources `inside` `(K,)`, of logits `(N, K)`."""
    return np.asarray(np.logaddexp.reduce(logits[:, inside], axis=1) - np.logaddexp.reduce(logits[:, ~inside], axis=1))
