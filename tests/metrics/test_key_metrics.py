"""Metrics of decoded keys against brute force, closed forms and simulation; two processes equal one."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from gloo_processes import in_processes
from torch import Tensor

from lightning_modules.metrics.evidence import p_values
from lightning_modules.metrics.fingerprint_scores import (
    add_images,
    key_estimates,
    key_metrics,
    negative_metrics,
    rate_name,
)
from lightning_modules.metrics.intervals import wilson
from lightning_modules.metrics.key_calibration import KeyCalibrationError, KeyCrossEntropy
from lightning_modules.metrics.key_evidence import (
    FalsePositiveRate,
    Identification,
    TruePositiveRate,
    registry_estimates,
    within_rates,
)
from lightning_modules.metrics.key_matches import (
    AttributionAccuracy,
    BitAccuracy,
    MatchedTruePositiveRate,
    effective_trials,
)

BITS = 32
NAMES = [
    "bit_accuracy", "attribution_accuracy", "identification_10", "identification_1000", "identification_1000000",
    "tpr_at_1e-3", "tpr_at_1e-6", "tpr_at_1e-12", "tpr_bits_at_1e-6", "cross_entropy", "calibration_error",
]  # fmt: skip


def data(n: int = 101) -> tuple[Tensor, Tensor]:
    """Logits of uneven quality: some images are read well, some badly."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.rand(n, BITS, generator=generator) > 0.5
    quality = 4 * torch.rand(n, 1, generator=generator)
    return quality * (keys.float() * 2 - 1) + torch.randn(n, BITS, generator=generator), keys


def estimates(parts: list[tuple[Tensor, Tensor]]) -> dict[str, dict[str, Any]]:
    metrics = key_metrics(BITS, prefix="test/clean/")
    for logits, keys in parts:
        add_images(metrics, logits, keys)
    return {name: found.to_json() for name, found in key_estimates(metrics).items()}


def of_matches(metric: Any, matching: list[int]) -> Any:
    """The estimate of images that match in so many bits."""
    wrong = torch.arange(metric.bits) >= torch.tensor(matching)[:, None]
    metric.update(wrong.float() * 2 - 1, torch.zeros(len(matching), metric.bits, dtype=torch.bool))
    return metric.estimate()


def test_values_agree_with_brute_force():
    logits, keys = data()
    right = ((logits > 0) == keys).numpy()
    matching = right.sum(axis=1)
    found = estimates([(logits, keys)])
    assert list(found) == [f"test/clean/{name}" for name in sorted(NAMES)]
    found = {name.removeprefix("test/clean/"): entry for name, entry in found.items()}
    assert found["bit_accuracy"]["value"] == pytest.approx(right.mean(), rel=1e-14)
    assert found["attribution_accuracy"]["value"] == right.all(axis=1).mean()
    assert 0 < right.all(axis=1).mean() < 1
    chances = p_values(logits, keys).numpy()
    assert found["tpr_bits_at_1e-6"]["value"] == (matching >= 30).mean()
    assert found["tpr_at_1e-3"]["value"] == (chances <= 1e-3).mean()
    assert found["tpr_at_1e-6"]["value"] == (chances <= 1e-6).mean() > (matching >= 30).mean()
    for users in (10, 1000):
        expected = np.mean((1 - chances) ** (users - 1))
        assert found[f"identification_{users}"]["value"] == pytest.approx(expected, rel=1e-9)
    probability = torch.sigmoid(logits.double())
    loss = -torch.where(keys, probability, 1 - probability).log2().mean(dim=1).numpy()
    interval = scipy.stats.t.interval(0.95, 100, loc=loss.mean(), scale=scipy.stats.sem(loss))
    entry = found["cross_entropy"]
    assert (entry["value"], entry["low"], entry["high"]) == pytest.approx((loss.mean(), *interval), rel=1e-6)
    assert entry["unit"] == "bit"
    too_short = found.pop("tpr_at_1e-12")  # 2^-32 is above it
    assert (too_short["value"], too_short["low"], too_short["within_reach"]) == (0.0, None, False)
    for name, entry in found.items():
        assert entry["n"] == 101, name
        assert entry["low"] <= entry["value"] <= entry["high"], name


def test_logged_scalars_are_the_estimates():
    metrics = key_metrics(BITS, prefix="test/jpeg_50/")
    add_images(metrics, *data())
    found = key_estimates(metrics)
    logged = metrics.compute()
    assert list(logged) == list(found) == [f"test/jpeg_50/{name}" for name in sorted(NAMES)]
    for name, value in logged.items():
        assert value.shape == ()
        assert value.item() == found[name].value
    metrics.reset()
    add_images(metrics, *data(7))
    assert {found.n for found in key_estimates(metrics).values()} == {7}


@pytest.mark.parametrize("users", [10, 1000])
def test_identification_is_what_simulated_registries_tend_to(users):
    rng = np.random.default_rng(users)
    n, bits = 3000, 16
    keys = torch.from_numpy(rng.random((n, bits)) < 0.5)
    logits = 2.0 * (keys.float() * 2 - 1) + 2.0 * torch.from_numpy(rng.standard_normal((n, bits))).float()
    places = 2 ** np.arange(bits)
    identified = 0
    for odds, key in zip(logits.double().numpy(), keys.numpy(), strict=True):
        by_key = np.zeros(1)  # the evidence for every key, bit by bit
        for odd in odds:
            by_key = np.concatenate([by_key - odd, by_key + odd])
        others = rng.integers(0, 2**bits, size=users - 1)
        identified += by_key[int(key @ places)] > by_key[others].max()
    metric = Identification(bits, users)
    metric.update(p_values(logits, keys))
    found = metric.estimate()
    assert 0.15 < found.value < 0.99
    assert abs(identified / n - found.value) < 4 * math.sqrt(found.value * (1 - found.value) / n)
    assert (found.low, found.high) == pytest.approx(wilson(found.value * n, n))
    assert found.details == {"users": users, "bits": bits}


@pytest.mark.parametrize("matching", [0, 16, 26, 30, 32])
def test_a_million_users_are_exact(matching):
    with localcontext() as context:
        context.prec = 50
        tail = Decimal(sum(math.comb(32, j) for j in range(matching, 33))) / Decimal(2**32)
        expected = float((1 - tail) ** 999_999)
    metric = Identification(32, 1_000_000)
    metric.update(p_values(torch.ones(3, 32), (torch.arange(32) < matching).expand(3, -1)))
    assert metric.estimate().value == pytest.approx(expected, rel=1e-9, abs=1e-11)
    if matching == 32:
        assert 0.9997 < expected < 1.0  # 32 bits name one of a million, all but certainly


def test_bits_of_one_image_are_no_independent_trials():
    """Over images read well or badly, the interval covers; Wilson's over all bits does not."""
    rng = np.random.default_rng(0)
    covered = naive = 0
    for _ in range(1000):
        matching = rng.binomial(32, rng.beta(8, 1, size=60))
        images = np.bincount(matching, minlength=33).tolist()
        found = BitAccuracy(32).of_counts(images)
        covered += found.low <= 8 / 9 <= found.high
        low, high = wilson(int(matching.sum()), 60 * 32)
        naive += low <= 8 / 9 <= high
    assert 0.93 < covered / 1000 < 0.975
    assert naive / 1000 < 0.75


def test_independent_bits_are_worth_nearly_all_of_them():
    rng = np.random.default_rng(1)
    counts = np.bincount(rng.binomial(32, 0.9, size=2000), minlength=33).tolist()
    assert 0.9 * 64_000 < effective_trials(counts) <= 64_000
    covered = 0
    for _ in range(1000):
        found = BitAccuracy(32).of_counts(np.bincount(rng.binomial(32, 0.98, size=100), minlength=33).tolist())
        covered += found.low <= 0.98 <= found.high
    assert 0.93 < covered / 1000 < 0.98


def test_perfect_accuracy_is_not_certainty():
    for metric in (BitAccuracy(32), AttributionAccuracy(32), MatchedTruePositiveRate(32, 1e-6)):
        found = of_matches(metric, [32] * 50)
        assert (found.value, found.high) == (1.0, 1.0)
        assert found.low == pytest.approx(scipy.stats.binomtest(50, 50).proportion_ci(method="wilson").low)
    one = of_matches(BitAccuracy(32), [31])
    assert one.value == 31 / 32
    assert one.low < 0.3
    perfect = torch.full((50,), 2.0**-32, dtype=torch.float64)
    named = TruePositiveRate(32, 1e-6)
    named.update(perfect)
    assert (named.estimate().value, named.estimate().low) == (1.0, found.low)
    identified = Identification(32, 1_000_000)
    identified.update(perfect)
    found = identified.estimate()
    assert 0.9 < found.low < found.value < found.high <= 1.0


def test_a_key_too_short_for_a_rate_convinces_nobody():
    found = of_matches(MatchedTruePositiveRate(8, 1e-6), [8, 8, 8])
    assert (found.value, found.low, found.high, found.n, found.interval) == (0.0, None, None, 3, "none")
    assert found.details["bits_needed"] is None
    metric = TruePositiveRate(8, 1e-6)
    metric.update(torch.full((3,), 2.0**-8))
    found = metric.estimate()
    assert (found.value, found.low, found.high, found.n, found.interval) == (0.0, None, None, 3, "none")
    assert found.details["within_reach"] is False


def test_negatives_keep_the_nominal_rate():
    generator = torch.Generator().manual_seed(0)
    n = 2000
    keys = torch.rand(n, 32, generator=generator) > 0.5
    decoded = torch.linspace(-2.0, 6.0, 32).repeat(n, 1)  # the same answer to every image
    metrics = negative_metrics(32, (5e-2, 1e-3, 1e-6), prefix="test/clean/negatives/")
    chances = p_values(decoded, keys)
    add_images(metrics, decoded, keys, chances)
    found = key_estimates(metrics)
    for rate in (5e-2, 1e-3, 1e-6):
        entry = found[f"test/clean/negatives/false_positive_rate_{rate_name(rate)}"]
        positives = int((chances <= rate).sum())
        assert (entry.value, entry.details["false_positives"]) == (positives / n, positives)
        assert (entry.details["within_reach"], entry.details["nominal"]) == (True, rate)
        interval = scipy.stats.binomtest(positives, n).proportion_ci(method="exact")
        assert (entry.low, entry.high) == pytest.approx(tuple(interval), rel=1e-9)
        assert entry.details["nominal_inside"] is True
        assert entry.details["exceeds_nominal"] is False
    assert found["test/clean/negatives/false_positive_rate_5e-2"].value > 0.04
    assert found["test/clean/negatives/bit_accuracy"].value == pytest.approx(0.5, abs=0.005)


def test_a_decoder_that_knows_the_key_of_negatives_is_found_out():
    metric = FalsePositiveRate(32, 1e-3)
    metric.update(torch.tensor([1e-4] * 20 + [0.5] * 980, dtype=torch.float64))
    found = metric.estimate()
    assert found.value == 0.02
    assert found.details["nominal_inside"] is False
    assert found.details["exceeds_nominal"] is True


def test_one_registry_meets_all_images_that_decode_alike_or_none():
    """Over registries the mean is nominal; the worst is 1 where images decode alike, and near the mean otherwise."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.rand(1000, 32, generator=generator) > 0.5
    alike = 3.0 * torch.randn(1, 32, generator=generator) + 0.1 * torch.randn(60, 32, generator=generator)
    apart = 3.0 * torch.randn(60, 32, generator=generator)
    worst = {}
    for name, logits in (("alike", alike), ("apart", apart)):
        found = within_rates(logits, keys, (0.05, 1e-3))
        for place in (0, 59):
            chances = p_values(logits[place].expand(200, -1), keys[:200]).numpy()
            for number, rate in enumerate((0.05, 1e-3)):
                assert np.array_equal(found[number, place, :200], chances <= rate)
        estimates = registry_estimates(found[0].sum(axis=0), 60, 0.05)
        mean, worst[name] = estimates.values()
        assert mean.value == pytest.approx(0.05, abs=0.025)
        assert worst[name].details["worst_if_independent"] == pytest.approx(0.15, abs=0.04)
    assert worst["alike"].value == 1.0
    assert worst["apart"].value < 0.3


def test_log_odds_of_zero_match_no_registry():
    keys = torch.rand(10, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    assert not within_rates(torch.zeros(2, 32), keys, (0.05,)).any()


def test_calibration_error_agrees_with_brute_force():
    generator = torch.Generator().manual_seed(1)
    true = 4 * torch.rand(101, 1, generator=generator) * torch.randn(101, BITS, generator=generator)
    keys = torch.rand(101, BITS, generator=generator) < torch.sigmoid(true)
    logits = torch.where(true.abs() < 1.5, 0.4, 3.0) * true  # too shy where it is unsure, too sure elsewhere
    metric = KeyCalibrationError(BITS, bins=10)
    metric.update(logits, keys)
    found = metric.estimate()
    sure = torch.sigmoid(logits.double().abs()).numpy()
    right = ((logits > 0) == keys).numpy()
    bin_of = np.digitize(sure, np.linspace(0.5, 1.0, 11)[1:-1])

    def error(rows: np.ndarray) -> float:
        s, r, b = sure[rows].ravel(), right[rows].ravel(), bin_of[rows].ravel()
        return sum((b == k).mean() * abs(s[b == k].mean() - r[b == k].mean()) for k in range(10) if (b == k).any())

    assert found.value == pytest.approx(error(np.arange(101)), abs=1e-8)
    assert found.details["overconfidence"] == pytest.approx(sure.mean() - right.mean(), abs=1e-8)
    assert abs(found.details["overconfidence"]) < 0.8 * found.value  # bins of both signs
    held = [k for k in range(10) if (bin_of == k).any()]
    expected = [[sure[bin_of == k].mean(), right[bin_of == k].mean(), (bin_of == k).sum()] for k in held]
    np.testing.assert_allclose(found.details["reliability"], expected, atol=1e-8)
    # without a bin that changes its sign, leaving out one image at a time gives the same standard error
    left_out = np.array([error(np.delete(np.arange(101), i)) for i in range(101)])
    jackknife = math.sqrt(100 / 101 * np.square(left_out - left_out.mean()).sum())
    half = (found.high - found.value) / scipy.stats.t.ppf(0.975, 100)
    assert half == pytest.approx(jackknife, rel=0.05)


def test_a_calibrated_decoder_scores_low_and_a_boastful_one_high():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2000, BITS, generator=generator)
    keys = torch.rand(2000, BITS, generator=generator) < torch.sigmoid(logits)
    calibrated, boastful = KeyCalibrationError(BITS), KeyCalibrationError(BITS)
    honest, boasted = KeyCrossEntropy(BITS), KeyCrossEntropy(BITS)
    for metric, factor in ((calibrated, 1), (boastful, 4), (honest, 1), (boasted, 4)):
        metric.update(factor * logits, keys)
    assert calibrated.estimate().value < 0.005
    assert boastful.estimate().low > 0.05
    assert boastful.estimate().details["overconfidence"] == pytest.approx(boastful.estimate().value)
    assert honest.estimate().high < boasted.estimate().low
    coin = KeyCrossEntropy(BITS)
    coin.update(torch.zeros(5, BITS), keys[:5])
    assert coin.estimate().value == pytest.approx(1.0, rel=1e-9)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_numbers_that_are_not_defined():
    metrics = key_metrics(BITS)
    for found in key_estimates(metrics).values():
        assert math.isnan(found.value)
        assert found.n == 0
    logits, keys = data(4)
    logits[0, 0] = math.nan
    add_images(metrics, logits, keys)
    found = key_estimates(metrics)
    assert math.isnan(found["cross_entropy"].value)
    assert math.isnan(found["calibration_error"].value)
    assert 0.0 < found["bit_accuracy"].value <= 1.0  # a NaN counts as a bit of 0, as in KeyEstimate.bits
    certain = KeyCalibrationError(BITS)
    certain.update(torch.full((3, BITS), math.inf), torch.ones(3, BITS, dtype=torch.bool))
    assert certain.estimate().value == 0.0


def test_unfit_input_is_refused():
    logits, keys = data(4)
    for metric in (BitAccuracy(BITS), KeyCrossEntropy(BITS), KeyCalibrationError(BITS)):
        for bad in ((logits[:, :8], keys[:, :8]), (logits[:2], keys), (logits[0], keys[0]), (logits, keys.float())):
            with pytest.raises(ValueError, match=r"expected \(B, 32\) both, and keys of torch\.bool"):
                metric.update(*bad)
    with pytest.raises(ValueError, match="found 1 users"):
        key_metrics(BITS, users=[1])
    with pytest.raises(ValueError, match="false-positive rate 2"):
        key_metrics(BITS, false_positive_rates=[2])
    with pytest.raises(ValueError, match="keys of 0 bits"):
        BitAccuracy(0)


@pytest.mark.parametrize(("rate", "name"), [(1e-3, "1e-3"), (1e-6, "1e-6"), (0.05, "5e-2"), (0.00123, "1_23e-3")])
def test_rates_are_named_without_a_point(rate, name):
    assert rate_name(rate) == name


def test_batches_and_order_do_not_change_a_digit():
    logits, keys = data()
    order = torch.randperm(101)
    parts = list(zip(logits[order].split([1, 70, 30]), keys[order].split([1, 70, 30]), strict=True))
    assert estimates(parts) == estimates([(logits, keys)])


def _uneven(rank: int, world: int) -> dict[str, Any]:
    logits, keys = data()
    return estimates([list(zip(logits.split([64, 37]), keys.split([64, 37]), strict=True))[rank]])


def _empty_rank(rank: int, world: int) -> dict[str, Any]:
    return estimates([data()] if rank == 0 else [])


@pytest.mark.parametrize("function", [_uneven, _empty_rank])
def test_two_processes_give_the_numbers_of_one(function: Any, tmp_path: Path):
    expected = estimates([data()])
    assert in_processes(function, 2, tmp_path) == [expected, expected]
