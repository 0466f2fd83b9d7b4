"""Intervals of the difference of two numbers, in closed form: paired over images or seeds, or of independent runs.

Sources: Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in
Medicine 2005; Zou and Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 2008
(MOVER).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from lightning_modules.metrics.intervals import Estimate, mean_and_std, percent, student_half_width

Scores = NDArray[np.float64]
"""One number an image, `(n,)`: whether it was named rightly, or the share of its bits that were."""


def paired_shares(first: Scores, second: Scores, confidence: float = 0.95) -> Estimate:
    """Second less first share of the same images, from right answers as 0 and 1.

    Agresti and Min's interval: Wald's after adding half an image to each cell of the table of both answers. It has a
    width where no image is answered differently, which McNemar's statistic and Student's interval have not.

    Raises:
        ValueError: no image, or two numbers of images.
    """
    n = _pairs(first, second)
    gained, lost = int(np.sum(second > first)), int(np.sum(second < first))
    centre = (gained - lost) / (n + 2)
    squared = (gained + lost + 1) - (gained - lost) ** 2 / (n + 2)
    half = float(ndtri(0.5 + confidence / 2)) * math.sqrt(max(0.0, squared)) / (n + 2)
    value = (gained - lost) / n
    low, high = max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half))
    name = f"paired over images, agresti-min {percent(confidence)}"
    return Estimate(value, low, high, n, name, {"gained": gained, "lost": lost})


def paired_macro_shares(first: Scores, second: Scores, classes: Sequence[str], confidence: float = 0.95) -> Estimate:
    """Second less first mean over classes of the shares of right answers; `classes` names the class of each image.

    Classes are independent: the intervals of their differences (`paired_shares`) are combined by MOVER.

    Raises:
        ValueError: as `paired_shares`.
    """
    n = _pairs(first, second)
    named = np.asarray(classes)
    each = [paired_shares(first[named == name], second[named == name], confidence) for name in sorted(set(classes))]
    value = math.fsum(one.value for one in each) / len(each)
    below = math.sqrt(math.fsum((one.value - _low(one)) ** 2 for one in each)) / len(each)
    above = math.sqrt(math.fsum((_high(one) - one.value) ** 2 for one in each)) / len(each)
    name = f"paired over images, agresti-min by source, mover {percent(confidence)}"
    return Estimate(value, value - below, value + above, n, name)


def paired_means(first: Scores, second: Scores, unit: str = "images", confidence: float = 0.95) -> Estimate:
    """Second less first mean of the same images or seeds, with Student's interval of the mean difference.

    A single pair has no interval.

    Raises:
        ValueError: as `paired_shares`.
    """
    n = _pairs(first, second)
    value, std = mean_and_std((second - first).tolist())
    if std is None:
        return Estimate(value, None, None, n, "none")
    half = student_half_width(std / math.sqrt(n), n - 1, confidence)
    return Estimate(value, value - half, value + half, n, f"paired over {unit}, student t {percent(confidence)}")


def independent_difference(first: Estimate, second: Estimate, confidence: float = 0.95) -> Estimate:
    """Second less first of two independent estimates, their intervals combined by MOVER; none where one has none.

    Of images that both have seen it is wider than need be: their answers agree more often than by chance.
    """
    value, n = second.value - first.value, min(first.n, second.n)
    if None in (first.low, first.high, second.low, second.high):
        return Estimate(value, None, None, n, "none")
    below = math.hypot(second.value - _low(second), _high(first) - first.value)
    above = math.hypot(_high(second) - second.value, first.value - _low(first))
    return Estimate(value, value - below, value + above, n, f"independent, mover {percent(confidence)}")


def _low(estimate: Estimate) -> float:
    return estimate.value if estimate.low is None else estimate.low


def _high(estimate: Estimate) -> float:
    return estimate.value if estimate.high is None else estimate.high


def _pairs(first: Scores, second: Scores) -> int:
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"found {first.shape} and {second.shape} numbers, expected the same images, one at least")
    return len(first)
