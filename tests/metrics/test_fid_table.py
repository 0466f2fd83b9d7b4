from __future__ import annotations

import warnings

import numpy as np
import pytest
from frechet_of_features import frechet_distance_of_features
from small_extractors import noise, projection

from lightning_modules.metrics.fid_table import FLOOR, frechet_table

REALS = noise(80, 1)
SOURCES = {"far": noise(30, 2, brightness=0.3), "near": noise(30, 3, brightness=0.05)}


def test_rows_are_distances_to_the_same_reals_and_the_floor_to_others():
    extractor = projection()
    table = frechet_table(SOURCES, REALS, extractor, seed=5, batch_size=7)
    drawn = np.random.default_rng(5).permutation(80)[:60]
    reference = extractor(REALS[drawn[:30]])
    for name, images in SOURCES.items():
        assert table.distances[name] == pytest.approx(
            frechet_distance_of_features(extractor(images), reference).item(), rel=1e-9
        )
    floor = frechet_distance_of_features(extractor(REALS[drawn[30:]]), reference).item()
    assert table.distances[FLOOR] == pytest.approx(floor, rel=1e-9)
    assert 0 < table.distances[FLOOR] < table.distances["near"] < table.distances["far"]
    assert (table.metric, table.n, table.d, table.seed) == ("fid_projection", 30, 6, 5)


def test_markdown_lists_the_nearest_first_and_the_floor_last():
    rows = frechet_table(SOURCES, REALS, projection()).to_markdown().splitlines()
    assert rows[0] == "| source | fid_projection | n | d |"
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| near", "| far", "| reals (other 30)"]
    assert all(row.endswith("| 30 | 6 |") for row in rows[2:])


def test_unequal_numbers_are_refused_unless_n_is_given():
    unequal = {**SOURCES, "near": SOURCES["near"][:20]}
    with pytest.raises(ValueError, match=r"different numbers of images: {'far': 30, 'near': 20}.*--n"):
        frechet_table(unequal, REALS, projection())
    table = frechet_table(unequal, REALS, projection(), n=20)
    assert table.n == 20
    assert table.distances["far"] == frechet_table(
        {"far": SOURCES["far"][:20]}, REALS, projection()
    ).distances["far"]  # fmt: skip


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match=r"asked for 30 images of each .* 60 reals .* found 59 reals; n from 2"):
        frechet_table(SOURCES, REALS[:59], projection())
    with pytest.raises(ValueError, match=r"of sources {'far': 30, 'near': 30}; n from 2 to 30"):
        frechet_table(SOURCES, REALS, projection(), n=31)
    with pytest.raises(ValueError, match="at least one, and none called 'reals'"):
        frechet_table({}, REALS, projection())


def test_few_images_are_warned_of_before_any_feature_is_computed():
    class Refusing:
        name, num_features = "refusing", 30

        def __call__(self, images):
            raise AssertionError("features were computed")

    with (
        pytest.warns(UserWarning, match="fid_refusing: 30 images of each source for 30 dimensions; their covariance"),
        pytest.raises(AssertionError),
    ):
        frechet_table(SOURCES, REALS, Refusing())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_table(SOURCES, REALS, projection())
