"""From blocks of a fingerprint's test to numbers: which images enter which distance, negatives that add up."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from lightning_modules.evaluation.blocks import Evaluation, EvaluationFolder, matrix, some_rows
from lightning_modules.evaluation.conditions import make_conditions
from lightning_modules.evaluation.fingerprint import (
    fingerprint_rows,
    fold_fingerprint,
    key_margins,
)
from lightning_modules.evaluation.image_distances import DISTANCES, equal_images
from lightning_modules.metrics.evidence import p_values
from lightning_modules.metrics.extractors import FeatureExtractor
from lightning_modules.metrics.fid import FrechetImageDistance
from lightning_modules.metrics.fingerprint_scores import (
    NEGATIVES,
    add_images,
    key_estimates,
    key_metrics,
    negative_metrics,
    rate_name,
)
from lightning_modules.metrics.key_evidence import REGISTRIES, REGISTRY_RATES, within_rates

pytestmark = pytest.mark.filterwarnings("ignore:fid_levels")
BITS, SIZE, D = 16, 4, 2
PARTS = {"marked": 10, "unmarked": 14, "other_generator": 6, "real": 9}
WRONG = {"marked": 0.05, "unmarked": 0.5, "other_generator": 0.4, "real": 0.6}
EQUAL = 7
REGISTERED = torch.rand(REGISTRIES, BITS, generator=torch.Generator().manual_seed(3)) > 0.5


def margins(part, numbers, salt=0):
    """Margins of a share of wrong bits, drawn for each image."""
    rows = []
    for number in numbers:
        generator = torch.Generator().manual_seed(1000 * list(PARTS).index(part) + number + 100_000 * salt)
        right = torch.rand(BITS, generator=generator) > WRONG[part] + 0.2 * salt
        rows.append(torch.where(right, 1.0, -1.0) * (0.1 + torch.rand(BITS, generator=generator)))
    return torch.stack(rows)


def features(part, numbers, place=0):
    base = {"marked": 1.0, "unmarked": 0.0, "real": 3.0}.get(part, 9.0) + 0.1 * place
    return torch.tensor([[base + 0.01 * number, base - 0.02 * number**2] for number in numbers])


def chances(odds):
    return p_values(odds, torch.ones_like(odds, dtype=torch.bool))


@pytest.fixture(params=["today", "earlier"])
def folder(request, tmp_path):
    """Finished blocks; those of an earlier version hold margins alone."""
    today = request.param == "today"
    conditions = [condition.to_json() for condition in make_conditions(["jpeg_50"], 0)]
    settings = {"bits": BITS, "scores": ["psnr"], "extractor": {"name": "levels", "d": D}}
    found = EvaluationFolder.begin(tmp_path, Evaluation("fingerprint", settings, SIZE, PARTS, conditions, {}))
    for part, number in found.blocks:
        numbers = list(range(number * SIZE, min((number + 1) * SIZE, PARTS[part])))
        columns = {"index": matrix(torch.tensor(numbers))}
        wanted = {"marked": EQUAL, "unmarked": 2 * EQUAL, "real": EQUAL}.get(part, 0)
        chosen = [n for n in numbers if n < wanted]
        mask = torch.tensor([n < wanted for n in numbers]).numpy()
        if part == "marked":
            for place in range(2):
                columns[f"{place}.margins"] = matrix(margins(part, numbers, place))
                if today:
                    columns[f"{place}.p_value"] = matrix(chances(margins(part, numbers, place)))
                columns[f"{place}.features"] = some_rows(features(part, chosen, place) if chosen else None, mask)
            columns["1.changed"] = matrix(torch.tensor([n != 2 for n in numbers]))
            columns["psnr"] = matrix(torch.tensor([20.0 + n for n in numbers], dtype=torch.float64))
            wrong = [margins("unmarked", [50 + n])[0].tolist() if n < 6 else None for n in numbers]
            columns["wrong"] = pa.array(wrong, type=pa.list_(pa.float32()))
            if today:
                each = [None if row is None else chances(torch.tensor([row])).tolist() for row in wrong]
                columns["wrong.p_value"] = pa.array(each, type=pa.list_(pa.float64()))
        else:
            columns["margins"] = matrix(margins(part, numbers))
            if today:
                columns["p_value"] = matrix(chances(margins(part, numbers)))
                for rate, positive in zip(
                    REGISTRY_RATES, within_rates(margins(part, numbers), REGISTERED), strict=True
                ):
                    packed = torch.from_numpy(np.packbits(positive, axis=1))
                    columns[f"registries.{rate_name(rate)}"] = matrix(packed)
            columns["features"] = some_rows(features(part, chosen) if chosen else None, mask)
        found.commit((part, number), columns)
    return found


def test_numbers_are_those_of_all_images_at_once(folder):
    found = fold_fingerprint(folder)
    for place, name in enumerate(("clean", "jpeg_50")):
        expected = key_metrics(BITS, prefix=f"test/{name}/")
        keys = torch.rand(10, BITS, generator=torch.Generator().manual_seed(7)) > 0.5
        odds = margins("marked", range(10), place)
        add_images(expected, torch.where(keys, odds, -odds), keys)
        for metric, estimate in key_estimates(expected).items():
            assert found[metric] == estimate, metric
    assert found["test/clean/bit_accuracy"].value > found["test/jpeg_50/bit_accuracy"].value
    assert (found["test/jpeg_50/changed_images"].value, found["test/jpeg_50/changed_images"].n) == (0.9, 10)
    assert found["test/quality/psnr"].value == pytest.approx(24.5)
    assert found["test/quality/psnr"].n == 10


def test_all_negatives_are_the_sum_of_their_kinds(folder):
    found = fold_fingerprint(folder)
    sizes = {"unmarked": 14, "wrong_key": 6, "other_generator": 6, "real": 9}
    for name in ("false_positive_rate_5e-2", "bit_accuracy"):
        kinds = [found[f"test/negatives/{kind}/{name}"] for kind in NEGATIVES]
        assert [estimate.n for estimate in kinds] == [sizes[kind] for kind in NEGATIVES]
        together = found[f"test/negatives/all/{name}"]
        assert together.n == sum(sizes.values())
        count = sum(estimate.value * estimate.n for estimate in kinds)
        assert together.value * together.n == pytest.approx(count)
    expected = negative_metrics(BITS, (5e-2, 1e-3, 1e-6))
    odds = margins("real", range(9))
    add_images(expected, odds, torch.ones_like(odds, dtype=torch.bool))
    assert found["test/negatives/real/bit_accuracy"] == key_estimates(expected)["bit_accuracy"]


@pytest.mark.parametrize("folder", ["today"], indirect=True)
def test_rates_over_registries_are_those_of_all_images_at_once(folder):
    found = fold_fingerprint(folder)
    for kind, images in list(PARTS.items())[1:]:
        for rate, positive in zip(REGISTRY_RATES, within_rates(margins(kind, range(images)), REGISTERED), strict=True):
            shares = positive.sum(axis=0) / images
            names = [
                f"test/negatives/{kind}/{of}registry_false_positive_rate_{rate_name(rate)}" for of in ("", "worst_")
            ]
            assert [found[name].value for name in names] == [shares.mean(), shares.max()]
            assert [found[name].n for name in names] == [images] * 2
    assert not any("all/registry" in name or "wrong_key/registry" in name for name in found)


def test_the_same_number_of_each_set_enters_every_distance(folder):
    assert equal_images(PARTS) == EQUAL
    found = fold_fingerprint(folder)
    sets = {name: features(name, range(EQUAL)) for name in ("marked", "unmarked", "real")}
    sets["unmarked_others"] = features("unmarked", range(EQUAL, 2 * EQUAL))
    stub = FeatureExtractor("levels", D, nn.Identity())

    def distance(reference, compared):
        metric = FrechetImageDistance(stub)
        metric.update_features(reference, real=True)
        metric.update_features(compared, real=False)
        return float(metric.compute())

    for name, (reference, compared) in DISTANCES.items():
        estimate = found[f"test/quality/{name}"]
        assert estimate.value == pytest.approx(distance(sets[reference], sets[compared]), rel=1e-9)
        assert estimate.n == EQUAL
    own, floor = (found[f"test/quality/{name}"].value for name in ("fid_own", "fid_own_floor"))
    assert found["test/quality/fid_added"].value == pytest.approx(own - floor, rel=1e-9)
    assert found["test/clean/fid"].value == found["test/quality/fid_after"].value
    attacked = distance(sets["real"], features("marked", range(EQUAL), 1))
    assert found["test/jpeg_50/fid"].value == pytest.approx(attacked, rel=1e-9)


def test_rows_count_matching_bits_in_order(folder):
    rows = list(fingerprint_rows(folder))
    assert [row["index"] for row in rows] == list(range(10))
    for place, name in enumerate(("clean", "jpeg_50")):
        counts = (margins("marked", range(10), place) > 0).sum(dim=1).tolist()
        assert [row["matching_bits"][name] for row in rows] == counts
        odds = margins("marked", range(10), place)
        assert [row["p_value"][name] for row in rows] == chances(odds).tolist()


def test_a_test_without_negatives_has_none(tmp_path):
    settings = {"bits": BITS, "scores": [], "extractor": None}
    conditions = [condition.to_json() for condition in make_conditions(None, 0)]
    folder = EvaluationFolder.begin(tmp_path, Evaluation("fingerprint", settings, 4, {"marked": 3}, conditions, {}))
    nothing = pa.array([None] * 3, type=pa.list_(pa.float32()))
    odds = margins("marked", range(3))
    folder.commit(("marked", 0), {"index": matrix(torch.arange(3)), "0.margins": matrix(odds), "wrong": nothing})
    found = fold_fingerprint(folder)
    assert not [name for name in found if "negatives" in name or "quality" in name]
    assert found["test/clean/bit_accuracy"].n == 3


def test_a_margin_is_positive_exactly_where_the_bit_is_the_keys():
    logits = torch.tensor([[2.0, -2.0, 0.0, 0.0, 1.0]])
    keys = torch.tensor([[True, True, True, False, False]])
    found = key_margins(logits, keys)
    assert ((found > 0) == ((logits > 0) == keys)).all()
    assert found[0, [0, 1, 4]].tolist() == [2.0, -2.0, -1.0]
