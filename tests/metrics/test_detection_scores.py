"""Areas under ROC curves beside scikit-learn's, their intervals, and thresholds that hold their rate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lightning_modules.metrics.open_set import (
    area_under_roc,
    detection_estimates,
    log_odds,
    threshold_at,
)


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_the_area_is_that_of_scikit_learn_with_ties(digits):
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(0.7, 1, 80).round(digits), rng.normal(0, 1, 50).round(digits)
    expected = roc_auc_score(np.r_[np.ones(80), np.zeros(50)], np.r_[positive, negative])
    found = area_under_roc(positive, negative)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    assert found.details == {"positives": 80, "negatives": 50}


@pytest.mark.parametrize(("shift", "truth"), [(0.0, 0.5), (1.5, 0.8556), (3.0, 0.983)])
def test_intervals_cover(shift, truth):
    """Truth: Phi(shift / sqrt 2)."""
    covered = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        found = area_under_roc(rng.normal(shift, 1, 40), rng.normal(0, 1, 60))
        covered += found.low <= truth <= found.high
    assert covered >= 0.92 * 300


def test_perfect_separation_has_an_interval_of_some_width():
    found = area_under_roc(np.ones(20), np.zeros(20))
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.8 < found.low < 0.99
    assert area_under_roc(np.zeros(20), np.ones(20)).low == 0.0
    assert math.isnan(area_under_roc(np.ones(0), np.ones(3)).value)


def test_thresholds_hold_their_rate_on_average():
    """Of 30 scores, the mean share of new ones above the threshold is at most 5 %, and not far below."""
    rng = np.random.default_rng(1)
    rates = [float((rng.standard_cauchy(4000) > threshold_at(rng.standard_cauchy(39))).mean()) for _ in range(600)]
    assert 0.044 < np.mean(rates) < 0.056
    assert threshold_at(np.arange(18.0)) == math.inf
    assert threshold_at(np.arange(19.0)) == 18.0


def test_detection_is_measured_at_a_threshold_from_elsewhere():
    found = detection_estimates(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 2.5]), 2.0)
    assert (found["tpr_at_5_fpr"].value, found["fpr"].value) == (0.5, pytest.approx(1 / 3))
    assert found["tpr_at_5_fpr"].details == {"threshold": 2.0}
    assert set(detection_estimates(np.ones(3), np.zeros(3), math.inf)) == {"auroc"}


def test_log_odds_are_those_of_the_probabilities():
    logits = np.random.default_rng(2).normal(size=(6, 4)) * 3
    inside = np.array([True, False, True, True])
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p = chances[:, inside].sum(axis=1)
    np.testing.assert_allclose(log_odds(logits, inside), np.log(p / (1 - p)))
