from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats

from lightning_modules.metrics.intervals import (
    Estimate,
    clopper_pearson,
    mean_and_std,
    proportion,
    wilson,
)

CASES = [(0, 10), (1, 10), (5, 10), (10, 10), (81, 263), (1, 100_000), (99_999, 100_000), (1, 1), (0, 1)]


@pytest.mark.parametrize(("successes", "n"), CASES)
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_intervals_agree_with_scipy(successes: int, n: int, confidence: float):
    reference = scipy.stats.binomtest(successes, n)
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        expected = reference.proportion_ci(confidence, method=method)
        assert ours(successes, n, confidence) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)


def test_published_example():
    # Newcombe, Statistics in Medicine 1998, table I: 81 of 263, Wilson .2553 to .3662, Clopper-Pearson .2527 to .3676.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert clopper_pearson(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)


def test_value_lies_in_its_interval_and_ends_are_exact_at_the_borders():
    for n in (1, 3, 7, 1000):
        assert wilson(0, n)[0] == 0.0
        assert wilson(n, n)[1] == 1.0
        for successes in range(n + 1):
            low, high = wilson(successes, n)
            assert 0.0 <= low <= successes / n <= high <= 1.0


def test_no_trials_say_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert math.isnan(proportion(0, 0).value)


@pytest.mark.parametrize(("successes", "n"), [(-1, 10), (11, 10), (0, -1)])
def test_impossible_counts_are_refused(successes: int, n: int):
    for interval in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match="expected 0 <= successes <= n"):
            interval(successes, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_impossible_confidence_is_refused(confidence: float):
    for interval in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match="between 0 and 1"):
            interval(5, 10, confidence)


def test_mean_and_std_agree_with_numpy():
    values = [0.71, 0.74, 0.69, 0.7]
    assert mean_and_std(values) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert mean_and_std([0.5]) == (0.5, None)
    with pytest.raises(ValueError, match="no value"):
        mean_and_std([])


def test_estimate_goes_to_json_and_back():
    estimate = Estimate(1 / 3, 0.1, 0.6, 300, "wilson 95%", {"chance": 0.1})
    entry = json.loads(json.dumps(estimate.to_json(), allow_nan=False))
    assert list(entry) == ["value", "low", "high", "n", "interval", "chance"]
    assert entry["value"] == 1 / 3
    assert Estimate.from_json(entry) == estimate


def test_undefined_values_become_null():
    entry = Estimate(math.nan, None, math.inf, 0, "none").to_json()
    assert (entry["value"], entry["low"], entry["high"]) == (None, None, None)
    assert math.isnan(Estimate.from_json(entry).value)


def test_details_may_not_hide_a_field():
    with pytest.raises(ValueError, match=r"\['n'\]"):
        Estimate(1.0, None, None, 1, "none", {"n": 3})


def test_something_else_is_no_estimate():
    with pytest.raises(ValueError, match="'interval'"):
        Estimate.from_json({"value": 1.0, "low": 0.0, "high": 1.0, "n": 2})
