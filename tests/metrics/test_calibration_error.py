"""Expected calibration error beside torchmetrics' own, its interval, and the temperature of the greatest likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_calibration_error

from lightning_modules.metrics.calibration import CalibrationError, fit_temperature


def overconfident(n: int, seed: int, sharpness: float, k: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose probabilities are right once they are divided by `sharpness`."""
    draws = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=draws, dtype=torch.float64) * 2
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=draws)[:, 0]
    return logits * sharpness, labels


def filled(logits: torch.Tensor, labels: torch.Tensor, size: int) -> CalibrationError:
    metric = CalibrationError()
    for some, truth in zip(logits.split(size), labels.split(size), strict=True):
        metric.update(some, truth)
    return metric


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_it_is_that_of_torchmetrics(sharpness):
    logits, labels = overconfident(700, 0, sharpness)
    expected = multiclass_calibration_error(logits, labels, num_classes=5, n_bins=15, norm="l1")
    assert float(filled(logits, labels, 64).compute()) == pytest.approx(float(expected), abs=1e-6)


def test_batches_change_no_digit():
    logits, labels = overconfident(500, 1, 2.0)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    one, other = filled(logits, labels, 500).estimate(), filled(logits[order], labels[order], 7).estimate()
    assert one == other


def test_the_interval_covers_the_error_of_many_images():
    """Of overconfident networks, where all bins err one way."""
    truth = float(filled(*overconfident(100_000, 99, 3.0), 100_000).compute())
    covered = 0
    for seed in range(100):
        found = filled(*overconfident(500, seed, 3.0), 500).estimate()
        covered += found.low <= truth <= found.high
    assert 89 <= covered <= 100


def test_what_calibrated_images_give_is_said():
    """Rounding of shares makes an error of right probabilities; its mean is among the details."""
    found = [filled(*overconfident(300, seed, 1.0), 300).estimate() for seed in range(100)]
    mean = float(np.mean([each.value for each in found]))
    assert float(np.mean([each.details["calibrated"] for each in found])) == pytest.approx(mean, rel=0.1)


def test_bins_are_shown_with_their_shares():
    rows = filled(*overconfident(600, 3, 2.0), 600).reliability()
    assert sum(row["n"] for row in rows) == 600
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows)
    assert [row["confidence"] for row in rows] == sorted(row["confidence"] for row in rows)


def test_nothing_is_measured_of_nothing():
    assert math.isnan(CalibrationError().estimate().value)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 5.0])
def test_the_temperature_is_the_most_likely_one(sharpness):
    logits, labels = overconfident(2000, 4, sharpness)
    found = fit_temperature(logits, labels)
    losses = lambda t: float(cross_entropy(logits / t, labels))  # noqa: E731
    best = minimize_scalar(losses, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}).x
    assert found == pytest.approx(best, rel=1e-3)
    assert found == pytest.approx(sharpness, rel=0.1)
    before, after = (filled(logits / t, labels, 2000).compute() for t in (1.0, found))
    assert after < before or sharpness == 1.0


def test_without_images_nothing_is_changed():
    assert fit_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.long)) == 1.0


def test_images_that_are_all_named_rightly_give_a_finite_temperature():
    assert 0.02 <= fit_temperature(torch.eye(4) * 3, torch.arange(4)) < 1.0
