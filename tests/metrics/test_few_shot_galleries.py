"""Rank-1 and mean average precision of galleries, beside scikit-learn's average precision."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from lightning_modules.metrics.retrieval import DRAWS, few_shot_estimates, rank_one_and_map


def clusters(spread: float, each: int = 30, sources: int = 4, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.normal(size=(d, d)))[0][:sources]
    labels = np.repeat(np.arange(sources), each)
    features = centres[labels] + spread * rng.normal(size=(len(labels), d))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels


def test_average_precision_is_that_of_scikit_learn():
    features, labels = clusters(0.8)
    gallery, known = features[::3], labels[::3]
    queries, asked = features[1::3], labels[1::3]
    first, precision = rank_one_and_map(queries, asked, gallery, known)
    similar = queries @ gallery.T
    expected = [average_precision_score(known == label, row) for label, row in zip(asked, similar, strict=True)]
    np.testing.assert_allclose(precision, expected, rtol=1e-9)
    np.testing.assert_array_equal(first, known[similar.argmax(axis=1)] == asked)


def test_clear_sources_are_found_from_one_image():
    features, labels = clusters(0.05)
    found = few_shot_estimates(features, labels, np.array([3]), 0)
    assert {f"{k}_shot/{name}" for k in (1, 5, 10) for name in ("rank1", "map")} == set(found)
    assert all(each.value == 1.0 for each in found.values())


def test_blurred_sources_are_found_better_from_more_images():
    features, labels = clusters(0.6)
    found = few_shot_estimates(features, labels, np.array([2, 3]), 0)
    values = [found[f"{k}_shot/rank1"].value for k in (1, 5, 10)]
    assert 0.25 < values[0] < values[1] < values[2] <= 1
    one = found["1_shot/rank1"]
    assert one.details["std"] > found["10_shot/rank1"].details["std"] > 0
    assert (one.details["draws"], one.details["sources"], one.n) == (DRAWS, 4, 58)
    assert found == few_shot_estimates(features, labels, np.array([2, 3]), 0)
    assert found != few_shot_estimates(features, labels, np.array([2, 3]), 1)


def test_sizes_that_leave_no_query_are_left_out():
    features, labels = clusters(0.6, each=6)
    assert set(few_shot_estimates(features, labels, np.array([3]), 0)) == {
        "1_shot/rank1", "1_shot/map", "5_shot/rank1", "5_shot/map"
    }  # fmt: skip


def test_nothing_is_known_by_chance():
    rng = np.random.default_rng(5)
    features = rng.normal(size=(400, 16))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found = few_shot_estimates(features, np.arange(400) % 4, np.arange(4), 0)["5_shot/rank1"]
    assert found.value == pytest.approx(found.details["chance"], abs=0.03)
