from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo_processes import in_processes

from lightning_modules.metrics.intervals import proportion
from lightning_modules.metrics.seed_accuracy import SeedAccuracy


def answers(accuracies: list[float], n: int = 960, seed: int = 0, alike: bool = False):
    """Predictions (S, n) and labels (n,): each right with its own probability, on the same images or on others."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(8, (n,), generator=generator)
    rows = []
    luck = torch.rand(n, generator=generator)
    for accuracy in accuracies:
        luck = luck if alike else torch.rand(n, generator=generator)
        rows.append(torch.where(luck < accuracy, labels, (labels + 1) % 8))
    return torch.stack(rows), labels


def estimate_of(predicted, labels, sizes: list[int] | None = None):
    metric = SeedAccuracy(len(predicted))
    for part, truth in zip(
        predicted.split(sizes or len(labels), dim=1), labels.split(sizes or len(labels)), strict=True
    ):
        metric.update(part, truth)
    return metric.estimate()


def test_one_seed_has_the_interval_of_a_proportion():
    predicted, labels = answers([0.4])
    found, right = estimate_of(predicted, labels), int((predicted[0] == labels).sum())
    expected = proportion(right, 960)
    assert (found.value, found.low, found.high, found.n) == (expected.value, expected.low, expected.high, 960)
    assert found.interval == "wilson over images 95%"
    assert (found.details["std"], found.details["values"]) == (None, [right / 960])


def test_mean_and_spread_over_seeds_agree_with_numpy_whatever_the_batches():
    predicted, labels = answers([0.4, 0.5, 0.45])
    values = (predicted == labels).double().mean(dim=1).numpy()
    found = estimate_of(predicted, labels, [100, 1, 859])
    assert found.value == pytest.approx(values.mean())
    assert found.details["std"] == pytest.approx(values.std(ddof=1))
    assert found.details["values"] == pytest.approx(values.tolist())
    assert (found.details["seeds"], found.n) == (3, 960)
    assert found == estimate_of(predicted, labels)


def test_seeds_that_answer_alike_are_worth_one_and_others_are_worth_more():
    """The interval is over images: trainings that always agree say nothing more about other images."""
    one = estimate_of(*answers([0.45]))
    alike = estimate_of(*answers([0.45] * 5, alike=True))
    apart = estimate_of(*answers([0.45] * 5))
    assert alike.high - alike.low == pytest.approx(one.high - one.low, rel=0.01)
    assert apart.high - apart.low == pytest.approx((one.high - one.low) / 5**0.5, rel=0.1)


def test_the_interval_holds_the_networks_mean_on_all_images():
    """Images of unlike difficulty, three seeds that find the same ones hard: coverage over draws of 200 images."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        hard = rng.beta(0.5, 0.7, size=200)  # probability that a seed is right, by image; mean 5 / 12
        right = torch.from_numpy(rng.random((3, 200)) < hard)
        found = estimate_of(right.long(), torch.ones(200, dtype=torch.long))
        covered.append(found.low <= 5 / 12 <= found.high)
    assert 0.93 <= np.mean(covered) <= 0.98


def _half(rank: int, world: int) -> dict[str, Any]:
    predicted, labels = answers([0.4, 0.5])
    share = slice(rank, None, world)
    return estimate_of(predicted[:, share], labels[share]).to_json()


def test_two_processes_give_the_numbers_of_one(tmp_path: Path):
    expected = estimate_of(*answers([0.4, 0.5])).to_json()
    assert in_processes(_half, 2, tmp_path) == [expected, expected]


def test_mistakes_are_refused_and_nothing_seen_is_no_number():
    with pytest.raises(ValueError, match="found 0 seeds"):
        SeedAccuracy(0)
    with pytest.raises(ValueError, match=r"predictions \(2, 5\) and labels \(5,\), expected \(3, B\)"):
        SeedAccuracy(3).update(torch.zeros(2, 5), torch.zeros(5))
    assert SeedAccuracy(2).estimate().to_json()["value"] is None
