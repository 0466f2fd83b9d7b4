"""Whitened features, distances to training features, galleries, and what travels in a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from lightning_modules.networks.feature_space import BANK, MOST_DIMENSIONS, NEIGHBOUR, FeatureSpace
from lightning_modules.networks.gallery import Gallery, check_names
from lightning_modules.networks.reference import Answers, Reference


def classes(n: int = 300, d: int = 6, k: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(1))
    features = torch.randn(n, d, generator=draws) @ mixing + 4 * torch.eye(k, d)[labels]
    return features, labels


def test_features_are_white_within_their_source():
    features, labels = classes()
    space = FeatureSpace.fit(features, labels)
    seen = space.whitened(features).double().numpy()
    values = features.double().numpy()
    within = np.concatenate([values[labels == label] - values[labels == label].mean(0) for label in range(3)])
    shared = LedoitWolf(assume_centered=True).fit(within).covariance_
    expected = (values - values.mean(0)) @ np.linalg.inv(shared) @ (values - values.mean(0)).T
    np.testing.assert_allclose(seen @ seen.T, expected, atol=1e-3)


def test_the_distance_is_that_to_the_tenth_neighbour():
    features, labels = classes()
    space = FeatureSpace.fit(features, labels)
    queries = space.unit(classes(40, seed=9)[0]).double().numpy()
    known = space.unit(features).double().numpy()
    expected = NearestNeighbors(n_neighbors=NEIGHBOUR).fit(known).kneighbors(queries)[0][:, -1]
    np.testing.assert_allclose(space.distance(classes(40, seed=9)[0]).numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("n", [80, 500])
def test_long_features_are_shortened_and_few_images_do(n):
    features = torch.randn(n, MOST_DIMENSIONS + 44, generator=torch.Generator().manual_seed(0))
    features[:, 3] = 1.0  # one that never moves
    space = FeatureSpace.fit(features, torch.arange(n) % 4)
    assert space.unit(features).shape == (n, MOST_DIMENSIONS)
    assert bool(space.distance(features).isfinite().all())


def test_what_travels_is_bounded():
    features, labels = classes(BANK + 500)
    assert len(FeatureSpace.fit(features, labels).bank) == BANK


def fitted() -> Reference:
    reference = Reference()
    reference.temperature = 1.5
    draws = torch.Generator().manual_seed(3)
    parts = []
    for seed in (0, 1):
        features, labels = classes(90, seed=seed)
        logits = torch.randn(90, 3, generator=draws) + 2 * torch.eye(3)[labels]
        parts.append((Answers(logits, features, logits.logsumexp(dim=1)), labels))
    reference.fit(*parts)
    return reference


def test_a_reference_comes_back_from_a_file(tmp_path):
    reference = fitted()
    reference.gallery = reference.gallery.with_source("gan-new", torch.eye(3, 6))
    torch.save(reference.to_checkpoint(), tmp_path / "reference.pt")
    other = Reference()
    other.load(torch.load(tmp_path / "reference.pt", weights_only=True))
    assert (other.temperature, other.identity()) == (1.5, reference.identity())
    assert other.gallery.counts() == {"gan-new": 3}
    answers = Answers(torch.eye(3), classes(3)[0], torch.ones(3))
    for name, values in reference.unknown_scores(answers).items():
        torch.testing.assert_close(other.unknown_scores(answers)[name], values)


def test_an_enrolled_source_changes_no_number_of_a_test():
    reference, before = fitted(), fitted().identity()
    reference.gallery = reference.gallery.with_source("gan-new", torch.eye(3, 6))
    assert reference.identity() == before
    reference.temperature = 2.0
    assert reference.identity() != before


def test_earlier_checkpoints_know_nothing():
    reference = fitted()
    reference.load(None)
    assert (reference.temperature, reference.space, reference.scores) == (1.0, None, {})
    answers = Answers(torch.eye(3), torch.ones(3, 6), torch.ones(3))
    assert set(reference.unknown_scores(answers)) == {"probability", "energy"} == set(reference.thresholded)
    assert reference.deciding == "energy"


def test_strange_features_are_far():
    reference = fitted()
    near, far = classes(30, seed=5)[0], 40 * torch.randn(30, 6, generator=torch.Generator().manual_seed(8))
    scores = [
        reference.unknown_scores(Answers(torch.eye(3).repeat(10, 1), each, torch.ones(30))) for each in (near, far)
    ]
    assert float(scores[0]["features"].median()) < float(scores[1]["features"].median())


def test_a_gallery_names_the_nearest():
    gallery = Gallery().with_source("a-one", torch.eye(2, 4)).with_source("b-two", torch.eye(4)[2:3])
    found = gallery.nearest(torch.eye(4))
    assert found.name == ["a-one", "a-one", "b-two", "a-one"]
    assert found.similarity.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert gallery.without("a-one").counts() == {"b-two": 1}
    with pytest.raises(ValueError, match="no enrolled source 'c', expected one of a-one, b-two"):
        gallery.without("c")
    with pytest.raises(ValueError, match="empty gallery"):
        Gallery().nearest(torch.eye(4))


@pytest.mark.parametrize(("name", "message"), [("", "empty name"), ("gan-a", "that of a trained source")])
def test_names_that_cannot_be_enrolled(name, message):
    with pytest.raises(ValueError, match=message):
        check_names(name, ["gan-a"])
