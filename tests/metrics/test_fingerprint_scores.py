"""Scores of a fingerprint: which images enter which distance, names of all numbers, negatives that add up."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.metrics.extractors import FeatureExtractor
from lightning_modules.metrics.fid import FrechetImageDistance
from lightning_modules.metrics.fingerprint_scores import DISTANCES, NEGATIVES, FingerprintScores

pytestmark = pytest.mark.filterwarnings("error:The ``compute`` method of metric")  # nor for an attack not seen
BITS, EQUAL = 16, 3
BASE = {"real": 0, "unmarked": 50, "marked": 100}


class Levels(nn.Module):
    """Features of a constant image: its level and its square."""

    def forward(self, images: Tensor) -> Tensor:
        level = images.double().mean(dim=(1, 2, 3))
        return torch.stack([level, level.square()], dim=1)


class Recording(FeatureExtractor):
    """Remembers which images it has seen, by their levels."""

    def __init__(self) -> None:
        super().__init__("levels", 2, Levels())
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        self.seen += features[:, 0].round().int().tolist()
        return features


@pytest.fixture
def extractor() -> Recording:
    return Recording()


@pytest.fixture
def scores(extractor) -> FingerprintScores:
    return FingerprintScores(BITS, ["clean", "jpeg_50"], extractor, None, EQUAL)


def add(scores: FingerprintScores, name: str, positions: list[int]) -> None:
    """Give images whose level is their set's base and their position."""
    position = torch.tensor(positions)
    level = (position + BASE.get(name, 200)) / 255
    scores.update_set(name, level[:, None, None, None].expand(-1, 3, 4, 4), position)


def fill(scores: FingerprintScores) -> None:
    """More images than count, in an order of their own and in batches that straddle the borders."""
    add(scores, "real", [7, 2, 0])
    add(scores, "real", [1, 5, 9])
    add(scores, "unmarked", [4, 1, 3, 8])
    add(scores, "unmarked", [0, 2, 5, 6, 7])
    add(scores, "marked", [2, 3])
    add(scores, "marked", [1, 0, 4])
    add(scores, "other_generator", [0, 1, 2])


def keyed(n: int, seed: int, wrong: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(n, BITS, generator=generator) > 0.5
    logits = 2.0 * torch.rand(n, BITS, generator=generator) + 0.1
    return torch.where(keys ^ (torch.rand(n, BITS, generator=generator) < wrong), logits, -logits), keys


def test_the_same_number_of_each_set_enters_every_distance(scores, extractor):
    fill(scores)
    first = {name: [BASE[name] + i for i in range(EQUAL)] for name in BASE}
    second = [BASE["unmarked"] + EQUAL + i for i in range(EQUAL)]
    for distance, (reference, compared) in DISTANCES.items():
        for side, part in (("real", reference), ("fake", compared)):
            expected = second if part == "unmarked_others" else first[part]
            metric = scores.distances[distance]
            found = torch.cat(getattr(metric, f"{side}_index")).sort().values + BASE[part.removesuffix("_others")]
            assert found.tolist() == expected, (distance, side)
            assert float(getattr(metric, f"{side}_features_sum")[0]) == pytest.approx(sum(expected))
    assert sorted(set(extractor.seen)) == sorted([*chain.from_iterable(first.values()), *second])
    assert len(extractor.seen) == 2 * EQUAL * len(DISTANCES)


@pytest.mark.filterwarnings("ignore:fid_levels")
def test_distances_are_those_of_the_chosen_images(scores):
    fill(scores)
    found = scores.estimates()
    sets = {name: torch.tensor([BASE[name] + i for i in range(EQUAL)]) for name in BASE}
    sets["unmarked_others"] = sets["unmarked"] + EQUAL
    for name, (reference, compared) in DISTANCES.items():
        expected = FrechetImageDistance(Recording())
        for real, part in ((True, reference), (False, compared)):
            expected.update((sets[part] / 255)[:, None, None, None].expand(-1, 3, 4, 4), real=real)
        estimate = found[f"test/quality/{name}"]
        assert estimate.value == pytest.approx(float(expected.compute()), rel=1e-9)
        assert estimate.value > 0.0
        assert estimate.n == EQUAL
    assert found["test/quality/fid_own_floor"].value < found["test/quality/fid_before"].value


def test_an_image_that_counts_twice_is_noticed(scores):
    fill(scores)
    add(scores, "marked", [1])
    with pytest.raises(ValueError, match="counted more than once"):
        scores.estimates()


def test_names_say_attack_kind_and_quality():
    perceptual = ("lpips", lambda marked, unmarked: (marked - unmarked).abs().flatten(1).mean(dim=1))
    scores = FingerprintScores(BITS, ["clean", "jpeg_50"], None, perceptual, EQUAL)
    images = torch.rand(2, 3, 16, 16)
    scores.update_pairs(images, images + 0.1)
    for attack in ("clean", "jpeg_50"):
        scores.update_keys(attack, *keyed(5, 0, 0.0))
    for kind in NEGATIVES:
        scores.update_negatives(kind, *keyed(4, 1, 0.5))
    found = scores.estimates()
    keys = {
        "bit_accuracy", "attribution_accuracy", "identification_10", "identification_1000", "identification_1000000",
        "tpr_at_1e-3", "tpr_at_1e-6", "cross_entropy", "calibration_error",
    }  # fmt: skip
    rates = {"false_positive_rate_5e-2", "false_positive_rate_1e-3", "false_positive_rate_1e-6", "bit_accuracy"}
    assert set(found) == (
        {f"test/{attack}/{name}" for attack in ("clean", "jpeg_50") for name in keys}
        | {f"test/negatives/{kind}/{name}" for kind in (*NEGATIVES, "all") for name in rates}
        | {f"test/quality/{name}" for name in ("psnr", "ssim", "lpips")}
    )
    assert found["test/quality/lpips"].value == pytest.approx(0.1, abs=1e-6)
    assert found["test/quality/psnr"].value == pytest.approx(20.0, abs=1e-3)


def test_attacks_are_counted_apart_and_what_was_not_seen_is_left_out():
    scores = FingerprintScores(BITS, ["clean", "jpeg_50", "blur"], None, None, EQUAL)
    scores.update_keys("clean", *keyed(40, 0, 0.0))
    scores.update_keys("jpeg_50", *keyed(10, 1, 1.0))
    found = scores.estimates()
    assert found["test/clean/bit_accuracy"].value == 1.0
    assert found["test/clean/attribution_accuracy"].n == 40
    assert found["test/jpeg_50/bit_accuracy"].value == 0.0
    assert found["test/jpeg_50/attribution_accuracy"].n == 10
    assert not any(name.startswith(("test/blur/", "test/negatives/")) for name in found)
    with pytest.raises(ValueError, match="is not in list"):
        scores.update_keys("noise", *keyed(1, 0, 0.0))


def test_all_negatives_are_the_sum_of_their_kinds():
    scores = FingerprintScores(BITS, ["clean"], None, None, EQUAL)
    sizes = dict(zip(NEGATIVES, (30, 50, 20, 10), strict=True))
    for number, (kind, size) in enumerate(sizes.items()):
        scores.update_negatives(kind, *keyed(size, number, 0.2 + 0.1 * number))
    found = scores.estimates()
    for name in ("false_positive_rate_5e-2", "bit_accuracy"):
        kinds = [found[f"test/negatives/{kind}/{name}"] for kind in NEGATIVES]
        together = found[f"test/negatives/all/{name}"]
        assert together.n == sum(estimate.n for estimate in kinds)
        count = sum(estimate.value * estimate.n for estimate in kinds)
        assert together.value * together.n == pytest.approx(count)
        assert count > 0
        assert together.low < together.value < together.high
