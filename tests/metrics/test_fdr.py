from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from gloo_processes import in_processes
from torch import Tensor

from lightning_modules.metrics.fdr import FrechetDistanceRatio, _affordable

Data = tuple[Tensor, Tensor, Tensor]


def data(n: int = 101, d: int = 8, classes: int = 3, seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    features = torch.randn(n, d, generator=generator) + labels[:, None]
    return features, labels, torch.randperm(10 * n, generator=generator)[:n]


def fdr_of(parts: list[Data], **kwargs: Any) -> FrechetDistanceRatio:
    metric = FrechetDistanceRatio(3, **kwargs)
    for part in parts:
        metric.update(*part)
    return metric


def chunks(whole: Data, sizes: list[int]) -> list[Data]:
    return list(zip(*(tensor.split(sizes) for tensor in whole), strict=True))


def gaussian_distance(a: np.ndarray, b: np.ndarray) -> float:
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = a.mean(0) - b.mean(0)
    return float(shift @ shift + np.trace(s1 + s2 - 2 * np.real(scipy.linalg.sqrtm(s1 @ s2))))


def brute_force(whole: Data, classes: int, seeds: int, seed: int) -> tuple[float, float, float]:
    """The definition, spelled out in numpy with scipy's matrix square root."""
    features, labels, index = (tensor.numpy() for tensor in whole)
    features, labels = features[np.argsort(index)].astype(np.float64), labels[np.argsort(index)]
    n = min(np.bincount(labels)) // 2
    ratios, inters, intras = [], [], []
    for halving in range(seeds):
        halves = []
        for label in range(classes):
            rows = features[labels == label]
            order = np.random.default_rng([seed, halving, label]).permutation(len(rows))
            halves.append((rows[order[:n]], rows[order[n : 2 * n]]))
        pairs = [(i, j) for i in range(classes) for j in range(i)]
        inters.append(np.mean([gaussian_distance(halves[i][0], halves[j][0]) for i, j in pairs]))
        intras.append(np.mean([gaussian_distance(*pair) for pair in halves]))
        ratios.append(inters[-1] / intras[-1])
    return float(np.mean(ratios)), float(np.mean(inters)), float(np.mean(intras))


def test_agrees_with_the_definition_spelled_out():
    whole = data()
    ratio, inter, intra = brute_force(whole, 3, seeds=4, seed=7)
    metric = fdr_of([whole], seeds=4, seed=7)
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(ratio, rel=1e-6)
    estimate = metric.estimate()
    assert estimate.details["inter"] == pytest.approx(inter, rel=1e-6)
    assert estimate.details["intra"] == pytest.approx(intra, rel=1e-6)


def test_analytic_gaussians():
    # Means sqrt(2) * 3 apart, unit covariance, large n: every inter distance tends to 18, intra to its finite-n bias
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30_000) % 3
    features = torch.randn(30_000, 3, generator=generator) + 3 * torch.eye(3)[labels]
    estimate = fdr_of([(features, labels, torch.arange(30_000))]).estimate()
    assert estimate.details["inter"] == pytest.approx(18, rel=0.03)
    assert 0 < estimate.details["intra"] < 0.01


def test_indistinguishable_sources_have_ratio_one():
    # Both kinds of distance are from equal n, so finite-sample bias cancels even where it is most of the distance.
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(1200, 200, generator=generator), torch.arange(1200) % 3
    estimate = fdr_of([(features, labels, torch.arange(1200))]).estimate()
    assert estimate.details["intra"] > 10
    assert estimate.value == pytest.approx(1.0, abs=0.01)


def test_order_and_batches_do_not_change_a_digit():
    whole = data()
    value = fdr_of([whole]).compute()
    shuffle = torch.randperm(101)
    shuffled = tuple(tensor[shuffle] for tensor in whole)
    assert torch.equal(fdr_of(chunks(shuffled, [1, 50, 49, 1])).compute(), value)


def test_seed_and_samples_do_change_it():
    whole = data()
    value = fdr_of([whole]).compute()
    assert not torch.equal(fdr_of([whole], seed=1).compute(), value)
    assert not torch.equal(fdr_of([tuple(tensor[:90] for tensor in whole)]).compute(), value)


def test_reset_forgets():
    metric = fdr_of([data(seed=1)])
    metric.compute()
    metric.reset()
    metric.update(*data(seed=2))
    assert torch.equal(metric.compute(), fdr_of([data(seed=2)]).compute())


def test_estimate_states_its_conditions():
    features, labels, index = data()
    smallest = int(labels.bincount().min())
    estimate = fdr_of([(features, labels, index)], seeds=6).estimate()
    ratios = estimate.details["ratio_per_seed"]
    assert estimate.value == pytest.approx(np.mean(ratios))
    assert (estimate.n, estimate.details["n_per_half"], estimate.details["d"]) == (101, smallest // 2, 8)
    # two-sided 95% t quantile with 5 degrees of freedom, from a printed table
    assert estimate.high - estimate.value == pytest.approx(2.5706 * np.std(ratios, ddof=1), rel=1e-4)
    assert estimate.value - estimate.low == pytest.approx(estimate.high - estimate.value)


def test_one_halving_has_no_interval():
    estimate = fdr_of([data()], seeds=1).estimate()
    assert (estimate.low, estimate.high, estimate.interval) == (None, None, "none")


def test_samples_per_half_sets_n():
    assert fdr_of([data()], samples_per_half=10).estimate().details["n_per_half"] == 10


# --- the null: labels shuffled


def test_null_is_the_ratio_of_shuffled_labels_spelled_out():
    features, labels, index = data()
    null = fdr_of([(features, labels, index)], seed=3, shuffles=4).null_estimate()
    order = np.argsort(index.numpy())
    n, ratios = int(labels.bincount().min()) // 2, []
    for shuffle in range(4):
        drawn = np.random.default_rng([3, shuffle, 3]).permutation(101)
        halves = features.double().numpy()[order][drawn][: 6 * n].reshape(3, 2, n, 8)
        inter = np.mean([gaussian_distance(halves[i, 0], halves[j, 0]) for i in range(3) for j in range(i)])
        ratios.append(inter / np.mean([gaussian_distance(*pair) for pair in halves]))
    assert null.details["ratio_per_shuffle"] == pytest.approx(ratios, rel=1e-6)
    assert null.value == pytest.approx(np.mean(ratios), rel=1e-6)
    # where the fifth falls: Student's t with 3 degrees of freedom, from a printed table, of the logarithms
    logs = np.log(ratios)
    assert np.log(null.high) - logs.mean() == pytest.approx(3.1824 * logs.std(ddof=1) * np.sqrt(1.25), rel=1e-4)
    assert (null.n, null.details["shuffles"], null.interval) == (101, 4, "range of shuffled labels 95%")


def test_fdr_of_nothing_lies_within_its_null_and_of_something_above():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(240, 16, generator=generator), torch.arange(240) % 4
    nothing = fdr_of_four(features, labels)
    assert nothing.null_estimate().low < nothing.compute() < nothing.null_estimate().high
    something = fdr_of_four(features + labels[:, None] / 2, labels)
    assert something.null_estimate().high < something.compute()
    assert something.null_estimate().value == pytest.approx(1, abs=0.2)


def test_null_is_the_same_in_any_order_and_another_with_another_seed():
    whole = data()
    null = fdr_of([whole]).null_estimate()
    shuffle = torch.randperm(101)
    assert fdr_of(chunks(tuple(tensor[shuffle] for tensor in whole), [1, 50, 50])).null_estimate() == null
    assert fdr_of([whole], seed=1).null_estimate() != null
    assert len(set(null.details["ratio_per_shuffle"])) == null.details["shuffles"] == 20


def test_fewer_shuffles_where_distances_take_long():
    assert _affordable(8, 60, 2048) == 20
    assert _affordable(8, 400, 2048) == 20
    assert _affordable(15, 1000, 2048) == 5


@pytest.mark.slow
def test_range_of_the_null_holds_the_next_shuffle():
    inside = []
    labels = torch.arange(120) % 4
    generator = torch.Generator().manual_seed(0)
    for trial in range(40):
        features = torch.randn(120, 8, generator=generator).relu()
        null = fdr_of_four(features, labels, seed=trial, seeds=1).null_estimate()
        others = fdr_of_four(features, labels, seed=1000 + trial, seeds=1, shuffles=40).null_estimate()
        inside += [null.low <= ratio <= null.high for ratio in others.details["ratio_per_shuffle"]]
    assert 0.92 <= np.mean(inside) <= 0.98


def fdr_of_four(features: Tensor, labels: Tensor, **kwargs: Any) -> FrechetDistanceRatio:
    metric = FrechetDistanceRatio(4, **kwargs)
    metric.update(features, labels, torch.arange(len(labels)))
    return metric


@pytest.mark.slow
def test_interval_covers_the_expected_value():
    values, covered = [], []
    labels, index = torch.arange(450) % 3, torch.arange(450)
    generator = torch.Generator().manual_seed(0)
    for trial in range(150):
        features = torch.randn(450, 6, generator=generator) + labels[:, None] / 2
        estimate = fdr_of([(features, labels, index)], seed=trial, shuffles=2).estimate()
        values.append(estimate.value)
        covered.append((estimate.low, estimate.high))
    expected = np.mean(values)
    assert np.mean([low <= expected <= high for low, high in covered]) > 0.93


# --- several processes


def _uneven(rank: int, world: int) -> dict[str, Any]:
    metric = fdr_of(chunks(chunks(data(), [64, 37])[rank], [30, 34] if rank == 0 else [37]))
    return {"fdr": metric.estimate().to_json(), "null": metric.null_estimate().to_json()}


def _empty_rank(rank: int, world: int) -> dict[str, Any]:
    metric = fdr_of([data()] if rank == 1 else [])
    return {"value": metric.compute().item(), "again": metric.estimate().value, "kept": len(metric.features)}


def _nobody(rank: int, world: int) -> str:
    with pytest.raises(ValueError, match="no features") as caught:
        fdr_of([]).compute()
    return str(caught.value)


def _repeated(rank: int, world: int) -> str:
    with pytest.raises(ValueError, match="counted more than once") as caught:
        fdr_of([data()]).compute()
    return str(caught.value)


def _widths(rank: int, world: int) -> str:
    with pytest.raises(ValueError, match=r"\[8, 9\]") as caught:
        fdr_of([data(d=8 + rank)]).compute()
    return str(caught.value)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_without_samples_are_fine(world: int, tmp_path: Path):
    value = fdr_of([data()]).compute().item()
    for rank, found in enumerate(in_processes(_empty_rank, world, tmp_path)):
        # after compute each process is back to its own samples
        assert found == {"value": value, "again": value, "kept": int(rank == 1)}


def test_two_processes_give_the_numbers_of_one(tmp_path: Path):
    metric = fdr_of([data()])
    expected = {"fdr": metric.estimate().to_json(), "null": metric.null_estimate().to_json()}
    assert in_processes(_uneven, 2, tmp_path) == [expected, expected]


@pytest.mark.parametrize("function", [_nobody, _repeated, _widths])
def test_every_process_gets_the_same_error(function: Any, tmp_path: Path):
    first, second = in_processes(function, 2, tmp_path)
    assert first == second


# --- errors


def test_too_few_images_names_every_class():
    labels = torch.tensor([0] * 10 + [1] * 3)
    metric = FrechetDistanceRatio(3, class_names=["real", "dcgan", "ddpm"])
    metric.update(torch.randn(13, 4), labels, torch.arange(13))
    with pytest.raises(ValueError, match=r"dcgan has 3, ddpm has 0; expected at least 4"):
        metric.compute()
    metric = FrechetDistanceRatio(2, samples_per_half=5)
    metric.update(torch.randn(13, 4), labels, torch.arange(13))
    with pytest.raises(ValueError, match=r"1 has 3; expected at least 10"):
        metric.compute()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_without_distance_are_named(value: float):
    features, labels, index = data()
    features[labels == 1, 3] = value
    metric = FrechetDistanceRatio(3, class_names=["real", "dcgan", "ddpm"])
    metric.update(features, labels, index)
    bad = int((labels == 1).sum())
    with pytest.raises(ValueError, match=rf"{bad} of 101 feature vectors hold NaN or infinity \(classes: dcgan\)"):
        metric.compute()


def test_labels_out_of_range_are_named():
    features, labels, index = data()
    with pytest.raises(ValueError, match=r"labels \[3, 4\]; expected 0 .. 2"):
        fdr_of([(features, labels + 2, index)]).compute()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_classes": 1}, "at least 2 classes"),
        ({"num_classes": 2, "seeds": 0}, "at least 1"),
        ({"num_classes": 2, "samples_per_half": 1}, "at least 2"),
        ({"num_classes": 2, "shuffles": 1}, "a range needs at least 2"),
        ({"num_classes": 2, "class_names": ["real"]}, "1 class names for 2"),
    ],
)
def test_unfit_arguments_are_refused(kwargs: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        FrechetDistanceRatio(**kwargs)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"features \(4, 2\), labels \(3,\)"):
        FrechetDistanceRatio(2).update(torch.zeros(4, 2), torch.zeros(3), torch.zeros(4))


def test_collapsed_classes_are_infinitely_far_apart():
    labels = torch.arange(40) % 2
    metric = FrechetDistanceRatio(2)
    metric.update(labels[:, None].float().expand(40, 3), labels, torch.arange(40))
    assert metric.compute().item() == float("inf")
    assert metric.estimate().to_json()["value"] is None
    assert metric.null_estimate().value > 0  # of mixed classes, which have not collapsed


def test_features_that_are_all_equal_have_no_range():
    metric = FrechetDistanceRatio(2)
    metric.update(torch.ones(40, 3), torch.arange(40) % 2, torch.arange(40))
    null = metric.null_estimate()
    assert (null.low, null.high, null.interval) == (None, None, "none")
