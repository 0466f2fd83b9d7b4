from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import torch
from gloo_processes import in_processes
from torch import Tensor

from lightning_modules.metrics.attribution import (
    CrossEntropy,
    attribution_estimates,
    attribution_metrics,
    estimates_from_confusion,
    scalars,
)

NAMES = ["real", "dcgan", "vae", "ddpm"]


def data(n: int = 101) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (n,), generator=generator).clamp(max=3)
    return torch.randn(n, 4, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 4), labels


def estimates(parts: list[tuple[Tensor, Tensor]]) -> dict[str, dict[str, Any]]:
    metrics = attribution_metrics(4, "test/")
    for logits, labels in parts:
        metrics.update(logits, labels)
    return {name: found.to_json() for name, found in attribution_estimates(metrics, NAMES).items()}


def test_values_agree_with_sklearn():
    logits, labels = data()
    predicted = logits.argmax(1)
    found = estimates([(logits, labels)])
    assert found["test/accuracy"]["value"] == sklearn.metrics.accuracy_score(labels, predicted)
    assert found["test/accuracy_macro"]["value"] == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(labels, predicted)
    )
    recalls = sklearn.metrics.recall_score(labels, predicted, average=None)
    assert [found[f"test/recall/{name}"]["value"] for name in NAMES] == pytest.approx(list(recalls))
    probabilities = scipy.special.softmax(logits.double().numpy(), axis=1)
    expected = sklearn.metrics.log_loss(labels, probabilities)
    assert found["test/cross_entropy"]["value"] == pytest.approx(expected, rel=1e-6)
    assert found["test/chance"]["value"] == 0.25
    assert found["test/majority"]["value"] == labels.bincount().max().item() / 101
    assert found["test/majority"]["source"] == NAMES[int(labels.bincount().argmax())]


def test_intervals_agree_with_scipy():
    logits, labels = data()
    right = logits.argmax(1) == labels
    found = estimates([(logits, labels)])
    interval = scipy.stats.binomtest(int(right.sum()), 101).proportion_ci(method="wilson")
    assert (found["test/accuracy"]["low"], found["test/accuracy"]["high"]) == pytest.approx(tuple(interval))
    of_class = right[labels == 2]
    interval = scipy.stats.binomtest(int(of_class.sum()), len(of_class)).proportion_ci(method="wilson")
    entry = found["test/recall/vae"]
    assert (entry["low"], entry["high"], entry["n"]) == pytest.approx((*interval, len(of_class)))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().numpy()
    interval = scipy.stats.t.interval(0.95, 100, loc=losses.mean(), scale=scipy.stats.sem(losses))
    entry = found["test/cross_entropy"]
    assert (entry["low"], entry["high"]) == pytest.approx(interval, rel=1e-6)


def test_logged_scalars_are_the_estimates():
    metrics = attribution_metrics(4, "val/")
    metrics.update(*data())
    found = attribution_estimates(metrics, NAMES)
    logged = scalars(metrics)
    assert list(logged) == ["val/accuracy", "val/accuracy_macro", "val/cross_entropy"]
    for name, metric in logged.items():
        assert metric.compute().shape == ()
        assert metric.compute().item() == pytest.approx(found[name].value, rel=1e-6)


def test_confusion_rows_are_the_truth():
    metrics = attribution_metrics(2)
    metrics.update(torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 0]))
    assert metrics.compute()["confusion_matrix"].tolist() == [[1, 2], [0, 0]]


def test_macro_interval_covers():
    # small, uneven support and a nearly perfect source
    recalls, support = np.array([0.99, 0.6, 0.3]), np.array([30, 20, 60])
    rng = np.random.default_rng(0)
    covered = 0
    for correct in rng.binomial(support, recalls, size=(2000, 3)):
        confusion = torch.zeros(3, 3, dtype=torch.long)
        for label in range(3):
            confusion[label, label] = int(correct[label])
            confusion[label, (label + 1) % 3] = int(support[label] - correct[label])
        macro = estimates_from_confusion(confusion, NAMES[:3])["accuracy_macro"]
        covered += macro.low <= recalls.mean() <= macro.high
    assert 0.935 < covered / 2000 < 0.975


def test_perfect_accuracy_is_not_certainty():
    found = estimates_from_confusion(torch.diag(torch.tensor([20, 20])), ["real", "fake"])
    for name in ("accuracy", "accuracy_macro", "recall/real"):
        assert found[name].value == found[name].high == 1.0
        assert 0.5 < found[name].low < 1.0


def test_source_without_images_is_left_out_and_named():
    confusion = torch.tensor([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    found = estimates_from_confusion(confusion, ["real", "dcgan", "vae"])
    assert found["accuracy_macro"].value == pytest.approx(0.9)
    assert found["accuracy_macro"].details == {"absent": ["vae"]}
    assert math.isnan(found["recall/vae"].value)
    assert found["recall/vae"].n == 0
    assert found["recall/vae"].to_json()["value"] is None


def test_unfit_input_is_refused():
    with pytest.raises(ValueError, match="is empty"):
        estimates_from_confusion(torch.zeros(2, 2, dtype=torch.long), ["a", "b"])
    with pytest.raises(ValueError, match="for 3 class names"):
        estimates_from_confusion(torch.zeros(2, 2, dtype=torch.long), ["a", "b", "c"])
    with pytest.raises(ValueError, match="at least 2 sources"):
        attribution_metrics(1)


def test_batches_and_order_do_not_change_a_digit():
    logits, labels = data()
    whole = estimates([(logits, labels)])
    order = torch.randperm(101)
    parts = list(zip(logits[order].split([1, 70, 30]), labels[order].split([1, 70, 30]), strict=True))
    assert estimates(parts) == whole


def test_cross_entropy_at_its_limits():
    metric = CrossEntropy()
    assert math.isnan(metric.compute().item())
    metric.update(torch.tensor([[1e6, 0.0]]), torch.tensor([1]))
    assert metric.compute().item() == 1000.0
    assert metric.estimate().low is None
    metric.update(torch.tensor([[float("nan"), 0.0]]), torch.tensor([1]))
    assert math.isnan(metric.compute().item())
    assert metric.estimate().n == 2


def _uneven(rank: int, world: int) -> dict[str, Any]:
    logits, labels = data()
    return estimates([list(zip(logits.split([64, 37]), labels.split([64, 37]), strict=True))[rank]])


def _empty_rank(rank: int, world: int) -> dict[str, Any]:
    return estimates([data()] if rank == 0 else [])


@pytest.mark.parametrize("function", [_uneven, _empty_rank])
def test_two_processes_give_the_numbers_of_one(function: Any, tmp_path: Path):
    expected = estimates([data()])
    assert in_processes(function, 2, tmp_path) == [expected, expected]
