from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_modules.evaluation.conditions import make_conditions
from lightning_modules.metrics.fingerprint_scores import add_images, key_estimates, key_metrics, negative_metrics
from lightning_modules.metrics.intervals import Estimate, proportion
from lightning_modules.metrics.key_evidence import FalsePositiveRate, registry_estimates
from lightning_modules.reporting.fingerprint_tables import (
    calibration_table,
    false_positive_table,
    fingerprint_headlines,
    identification_table,
    negative_bits_table,
    quality_table,
    rate_text,
    registry_table,
    robustness_table,
    strength_curves,
    worst_attack,
)
from lightning_modules.reporting.runs import epoch_means

BITS = 32


def measured(attacks: dict[str, float]) -> dict[str, Estimate]:
    """Results as an evaluation makes them: 200 images an attack, whose bits are right with a probability."""
    generator = torch.Generator().manual_seed(0)
    results: dict[str, Estimate] = {}
    for name, share in attacks.items():
        metrics = key_metrics(BITS, prefix=f"test/{name}/")
        keys = torch.rand(200, BITS, generator=generator) < 0.5
        right = torch.rand(200, BITS, generator=generator) < share
        add_images(metrics, torch.where(right == keys, 2.0, -2.0), keys)
        results |= key_estimates(metrics)
    return results


ATTACKS = {"clean": 1.0, "paper-blur": 0.8, "paper-jpeg": 0.9, "blur_1": 0.7, "blur_0.5": 0.85}
RESULTS = measured(ATTACKS)
CONDITIONS = [each for each in make_conditions(list(ATTACKS)[1:], 0) if each.name in ATTACKS]


def negatives(false_positives: int, n: int, rate: float = 0.05) -> Estimate:
    metric = FalsePositiveRate(BITS, rate)
    return metric.of_sum(false_positives, n)


def test_robustness_table_holds_every_attack_in_order():
    table = robustness_table(RESULTS, list(ATTACKS))
    assert table is not None
    assert table.columns == ["attack", "images", *table.percent]
    assert table.percent == [
        *("bit accuracy", "attribution accuracy", "TPR at 0.001, one user"),
        *("TPR at 1e-6, one user", "by bits alone, 1e-6", "TPR at 1e-12, 1,000,000 users at 1e-6 together"),
    ]
    assert [row[0] for row in table.rows] == list(ATTACKS)
    assert table.rows[1][2:4] == [
        RESULTS["test/paper-blur/bit_accuracy"],
        RESULTS["test/paper-blur/attribution_accuracy"],
    ]
    rates = ("tpr_at_1e-3", "tpr_at_1e-6", "tpr_bits_at_1e-6", "tpr_at_1e-12")
    assert list(table.rows[0][4:]) == [RESULTS[f"test/clean/{name}"] for name in rates]
    assert table.rows[0][1] == 200


def test_identification_goes_from_few_users_to_many():
    table = identification_table(RESULTS, ["clean"])
    assert table is not None
    assert list(table.columns[2:]) == ["among 10 users", "among 1,000 users", "among 1,000,000 users"]
    assert table.rows[0][4] == RESULTS["test/clean/identification_1000000"]


def test_calibration_table_tells_overconfidence():
    table = calibration_table(RESULTS, ["clean", "blur_1"])
    assert table is not None
    assert list(table.columns[2:]) == ["cross-entropy in bits", "calibration error", "overconfidence"]
    confidence = 1 / (1 + math.exp(-2))
    assert table.rows[0][-1] == pytest.approx(confidence - 1, abs=1e-6)
    bare = {"test/clean/calibration_error": Estimate(0.1, None, None, 5, "none")}
    assert "overconfidence" not in (calibration_table(bare, ["clean"]) or table).columns


def test_what_was_not_measured_is_left_out():
    only = {"test/paper-blur/bit_accuracy": proportion(8, 10)}
    table = robustness_table(only, list(ATTACKS))
    assert table is not None
    assert (table.columns, [row[0] for row in table.rows]) == (["attack", "images", "bit accuracy"], ["paper-blur"])
    for nothing in (
        robustness_table({}, ["clean"]),
        identification_table(only, list(ATTACKS)),
        calibration_table(only, list(ATTACKS)),
        false_positive_table(only),
        negative_bits_table(only),
        quality_table(only),
    ):
        assert nothing is None
    assert fingerprint_headlines({}, [], BITS) == []


@pytest.mark.parametrize(
    ("found", "n", "words"),
    [
        (10, 200, ["pass", "pass"]),  # the nominal rate
        (0, 200, ["pass", "fail"]),  # too few
        (100, 200, ["fail", "fail"]),
    ],
)
def test_false_positives_are_judged_in_words(found: int, n: int, words: list[str]):
    table = false_positive_table({"test/negatives/real/false_positive_rate_5e-2": negatives(found, n)})
    assert table is not None
    assert list(table.rows[0][:2]) == ["real images", "0.05"]
    assert table.rows[0][2].value == found / n
    assert table.rows[0][3] == f"{found} of {n:,}"
    assert list(table.rows[0][4:]) == words


def test_registries_are_shown_in_the_mean_and_the_worst():
    found = registry_estimates(np.array([0, 10, 150, 40]), 200, 0.05)
    results = {f"test/negatives/unmarked/{name}_5e-2": estimate for name, estimate in found.items()}
    table = registry_table(results)
    assert table is not None
    assert list(table.rows[0]) == ["no fingerprint", "0.05", 200, 4, 0.25, 0.75, pytest.approx(0.07, abs=0.011), 0.5]
    assert registry_table({}) is None
    assert false_positive_table(results) is None


def test_negatives_stand_by_kind_and_falling_rate_with_all_of_them_last():
    results: dict[str, Estimate] = {}
    for kind in ("all", "new_kind", "real", "unmarked"):
        metrics = negative_metrics(BITS, (1e-6, 5e-2, 2.5e-3), prefix=f"test/negatives/{kind}/")
        add_images(metrics, torch.ones(4, BITS), torch.arange(4 * BITS).reshape(4, BITS) % 2 == 0)
        results |= key_estimates(metrics)
    table, bits = false_positive_table(results), negative_bits_table(results)
    assert table is not None
    assert bits is not None
    kinds = ["no fingerprint", "real images", "new_kind", "all together"]
    assert [row[0] for row in bits.rows] == kinds
    assert [(row[0], row[1]) for row in table.rows] == [(k, rate) for k in kinds for rate in ("0.05", "0.0025", "1e-6")]
    assert [row[-1] for row in bits.rows] == ["pass"] * 4


def test_bits_that_match_a_random_key_too_often_fail():
    table = negative_bits_table({"test/negatives/real/bit_accuracy": proportion(600, 1000)})
    assert table is not None
    assert table.rows[0][-1] == "fail"


def test_negatives_without_images_or_details_are_dashes():
    name = "test/negatives/real/false_positive_rate_1e-3"
    for estimate in (negatives(0, 0), Estimate(0.0, None, None, 5, "none")):
        table = false_positive_table({name: estimate})
        assert table is not None
        assert list(table.rows[0][4:]) == [None, None]


def test_quality_comes_in_a_fixed_order_with_unknown_measures_last():
    names = ["zebra_score", "psnr", "fid_after", "fid_before"]
    table = quality_table({f"test/quality/{name}": Estimate(1.0, None, None, 9, "none") for name in names})
    assert table is not None
    titles = [row[0] for row in table.rows]
    assert titles == ["FID, images without fingerprint", "FID, fingerprinted images", "PSNR in dB", "zebra score"]


def test_curves_and_worst_attack_are_told_apart():
    assert [strength for strength, _ in strength_curves(RESULTS, CONDITIONS)["blur"]] == [1.0, 0.5]
    worst = worst_attack(RESULTS, CONDITIONS)
    assert worst == ("paper-blur", RESULTS["test/paper-blur/bit_accuracy"])  # blur_1 belongs to a grid
    assert worst_attack({"test/a/bit_accuracy": proportion(0, 0)}, CONDITIONS) is None


def test_headlines_tell_a_key_too_short_and_the_fid_that_there_is():
    short = {"test/clean/tpr_at_1e-6": Estimate(0.0, None, None, 9, "none", {"within_reach": False})}
    (headline,) = fingerprint_headlines(short, CONDITIONS[:1], 8)
    assert "not even all 8 bits are good enough" in headline.note
    beside = {f"test/clean/tpr_{of}at_1e-6": proportion(k, 10) for of, k in (("", 9), ("bits_", 4))}
    (headline,) = fingerprint_headlines(beside, CONDITIONS[:1], 32)
    assert headline.note.endswith("no attack; one user; by matching bits alone 40.0\u00a0%")
    own = {"test/quality/fid_own": Estimate(2.5, None, None, 9, "none")}
    both = own | {
        f"test/quality/fid_{name}": Estimate(v, None, None, 9, "none") for name, v in (("before", 1.0), ("after", 4.0))
    }
    assert [headline.value for headline in fingerprint_headlines(own, [], 8)] == ["2.50"]
    assert [headline.value for headline in fingerprint_headlines(both, [], 8)] == ["1.00 → 4.00"]


def test_rates_read_as_they_are_written():
    assert [rate_text(rate) for rate in (0.05, 1e-3, 1e-6, 1e-12)] == ["0.05", "0.001", "1e-6", "1e-12"]


def test_epoch_means_average_the_steps_of_an_epoch(tmp_path: Path):
    log = tmp_path / "metrics.csv"
    log.write_text("epoch,step,train/loss,val/loss,once\n0,1,4,,\n0,2,2,,1\n0,2,,9,\n1,3,1,,\n1,3,,8,\n")
    assert epoch_means(log, {"train/loss": "a", "val/loss": "b", "once": "c", "none": "d"}) == {
        "a": [(0.0, 3.0), (1.0, 1.0)],
        "b": [(0.0, 9.0), (1.0, 8.0)],
    }
    assert epoch_means(tmp_path / "missing.csv", {"train/loss": "a"}) == {}
