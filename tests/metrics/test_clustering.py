"""NMI of clusters and design choices, against scikit-learn; its chance level."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from lightning_modules.metrics.clustering import cluster_agreements, normalised_mutual_information, source_means

SOURCES = [f"gan-{letter}" for letter in "abcdefgh"]


def points(centres: dict[str, int], each: int = 30, spread: float = 0.1) -> tuple[np.ndarray, list[str]]:
    """Points of each source about the place of its group on a line, in three dimensions."""
    rng = np.random.default_rng(0)
    found = [rng.normal((4 * place, 0, 0), spread, (each, 3)) for place in centres.values()]
    return np.concatenate(found), [name for name in centres for _ in range(each)]


@pytest.mark.parametrize("seed", range(4))
def test_nmi_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    other = np.where(rng.random(200) < 0.2 * seed, one % 3, other)
    counts = np.zeros((4, 3))
    np.add.at(counts, (one, other), 1)
    assert normalised_mutual_information(counts) == pytest.approx(normalized_mutual_info_score(one, other), abs=1e-12)
    assert normalised_mutual_information(np.array([[5.0]])) == normalized_mutual_info_score([0] * 5, [0] * 5) == 1


def test_a_choice_that_features_follow_and_one_that_they_do_not():
    features, sources = points({name: place // 4 for place, name in enumerate(SOURCES)})
    followed = {name: "one" if place < 4 else "two" for place, name in enumerate(SOURCES)}
    crossed = {name: "one" if place % 2 else "two" for place, name in enumerate(SOURCES)}
    found = cluster_agreements(features, sources, {"skip": followed, "loss": crossed})
    assert found["skip"].nmi == pytest.approx(1)
    assert found["skip"].p_value < 0.1
    assert found["loss"].nmi == pytest.approx(0, abs=1e-9)
    assert found["loss"].p_value == pytest.approx(1)
    for one in found.values():
        assert (one.clusters, one.n) == (2, 240)
        assert 0.03 < one.chance < 0.4  # far above that of labels shuffled among images, 0.003
        assert one.chance < one.chance_high <= 1


def test_the_number_is_the_mean_over_seeds_of_k_means():
    rng = np.random.default_rng(3)
    features, sources = rng.normal(size=(160, 5)), [name for name in SOURCES for _ in range(20)]
    choices = {name: str(place % 3) for place, name in enumerate(SOURCES[:6])}  # two sources have none
    found = cluster_agreements(features, sources, {"loss": choices}, seeds=(0, 7))["loss"]
    own = features[:120]
    labels = [choices[name] for name in sources[:120]]
    each = [
        normalized_mutual_info_score(labels, KMeans(3, n_init=10, random_state=seed).fit_predict(own))
        for seed in (0, 7)
    ]
    assert found.nmi == pytest.approx(np.mean(each), abs=1e-9)
    assert found.n == 120


def test_nothing_to_compare_is_no_number():
    features, sources = points({name: place for place, name in enumerate(SOURCES)}, each=2)
    alike = dict.fromkeys(SOURCES, "one")
    assert cluster_agreements(features, sources, {"loss": alike}) == {}
    means, names = source_means(features, sources)
    assert names == SOURCES
    np.testing.assert_allclose(means[2], features[4:6].mean(axis=0))
    assert cluster_agreements(means, names, {"loss": {name: name for name in SOURCES}}) == {}  # each otherwise
    each = cluster_agreements(features, sources, {"loss": {name: name for name in SOURCES}})["loss"]
    assert each.chance == pytest.approx(each.nmi)  # however names are dealt out, clusters by source follow them
