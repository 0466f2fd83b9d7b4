"""Closed-form intervals of differences: against formulas written out, simulated coverage, and their borders."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lightning_modules.metrics.differences import (
    independent_difference,
    paired_macro_shares,
    paired_means,
    paired_shares,
)
from lightning_modules.metrics.intervals import Estimate, proportion


def answers(both: int, gained: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([1.0, 0.0, 1.0, 0.0], [both, gained, lost, neither])
    second = np.repeat([1.0, 1.0, 0.0, 0.0], [both, gained, lost, neither])
    return first, second


def test_paired_shares_follow_agresti_and_min():
    found = paired_shares(*answers(53, 16, 8, 9))
    n, c, b = 86 + 2, 16.5, 8.5  # half an image in each of four cells
    error = math.sqrt((b + c) - (c - b) ** 2 / n) / n
    assert found.value == pytest.approx(8 / 86)
    assert found.low == pytest.approx((c - b) / n - 1.959964 * error, abs=1e-6)
    assert found.high == pytest.approx((c - b) / n + 1.959964 * error, abs=1e-6)
    assert (found.n, found.details) == (86, {"gained": 16, "lost": 8})
    assert found.interval == "paired over images, agresti-min 95%"


def test_paired_shares_hold_their_value_at_every_border():
    for n in (1, 2, 5, 40):
        for gained in range(n + 1):
            for lost in range(n + 1 - gained):
                found = paired_shares(*answers(0, gained, lost, n - gained - lost))
                assert -1 <= found.low <= found.value <= found.high <= 1
                assert found.low < found.high  # also where no image is answered differently


def test_paired_shares_cover_the_truth():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        kind = rng.choice(4, size=50, p=[0.7, 0.15, 0.05, 0.1])
        counts = np.bincount(kind, minlength=4).tolist()
        found = paired_shares(*answers(*counts))
        inside += found.low <= 0.10 <= found.high
    assert 0.93 <= inside / 2000 <= 0.98


def test_paired_is_narrower_than_independent_where_answers_agree():
    first, second = answers(80, 8, 2, 10)
    alone = independent_difference(proportion(82, 100), proportion(88, 100))
    paired = paired_shares(first, second)
    assert paired.value == pytest.approx(alone.value) == pytest.approx(0.06)
    assert paired.high - paired.low < 0.7 * (alone.high - alone.low)


def test_paired_means_are_students():
    rng = np.random.default_rng(1)
    first, second = rng.random(30), rng.random(30)
    found = paired_means(first, second)
    low, high = stats.t.interval(0.95, 29, np.mean(second - first), stats.sem(second - first))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert "seeds" in paired_means(first, second, unit="seeds").interval
    alone = paired_means(first[:1], second[:1])
    assert (alone.low, alone.interval) == (None, "none")


def test_macro_weighs_sources_and_not_images():
    first, second = answers(30, 10, 0, 0)  # source a: 40 images, a quarter gained
    lost = answers(5, 0, 5, 0)  # source b: 10 images, half lost
    sources = ["a"] * 40 + ["b"] * 10
    found = paired_macro_shares(np.append(first, lost[0]), np.append(second, lost[1]), sources)
    assert found.value == pytest.approx((0.25 - 0.5) / 2)
    each = [paired_shares(first, second), paired_shares(*lost)]
    below = math.sqrt(sum((one.value - one.low) ** 2 for one in each)) / 2
    assert found.low == pytest.approx(found.value - below)


def test_mover_of_two_proportions_is_newcombes():
    # Newcombe 1998, table II, example (a), method 10: 56/70 and 48/80
    found = independent_difference(proportion(48, 80), proportion(56, 70))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert found.interval == "independent, mover 95%"


def test_without_an_interval_there_is_none():
    found = independent_difference(Estimate(3.0, None, None, 10, "none"), Estimate(5.0, 4.0, 6.0, 20, "x"))
    assert (found.value, found.low, found.high, found.n) == (2.0, None, None, 10)


def test_other_numbers_of_images_are_refused():
    with pytest.raises(ValueError, match="expected the same images"):
        paired_shares(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="one at least"):
        paired_means(np.ones(0), np.ones(0))
