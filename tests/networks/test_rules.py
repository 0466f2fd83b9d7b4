"""Rules that are fitted to vectors, against scikit-learn's own answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from lightning_modules.networks import ControlledNetworks, recipe_for
from lightning_modules.networks import rules as module
from lightning_modules.networks.recipes import choose_networks
from lightning_modules.networks.rules import RULES, STRENGTHS, build_rule, likeliest_scale
from lightning_modules.networks.source_network import RULE_NAMES


def data(classes=3, count=240, dimensions=12, seed=0):
    """Vectors float32 and labels to learn from, and as many to ask about; some coordinate is constant."""
    vectors, labels = make_classification(
        2 * count, dimensions, n_informative=6, n_classes=classes, class_sep=0.8, random_state=seed
    )
    vectors = (vectors * 5 + 40).astype(np.float32)
    vectors[:, 3] = 7.25
    return vectors[:count], labels[:count].astype(np.int64), vectors[count:]


def batches(vectors, labels, size=50):
    pairs = zip(torch.from_numpy(vectors).split(size), torch.from_numpy(labels).split(size), strict=True)
    return list(pairs)


def fitted(name, vectors, labels):
    rule = build_rule(name, vectors.shape[1], int(labels.max()) + 1)
    rule.fit(batches(vectors, labels))
    return rule.eval()


def sklearns(name, rule):
    if name == "logistic":
        return LogisticRegression(C=float(rule.strength), max_iter=1000)
    if name == "svm":
        return LinearSVC(C=float(rule.strength), max_iter=10_000, random_state=0)
    return KNeighborsClassifier(5)


def test_every_rule_has_a_name_that_networks_know():
    assert set(RULES) == set(RULE_NAMES)
    assert all(recipe_for(name, "none").learning_rate == 0.0 for name in RULES)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", ["logistic", "svm", "knn"])
def test_answers_are_those_of_scikit_learn(name, classes):
    vectors, labels, asked = data(classes)
    rule = fitted(name, vectors, labels)
    scaler = StandardScaler().fit(vectors.astype(np.float64))
    reference = sklearns(name, rule).fit(scaler.transform(vectors.astype(np.float64)), labels)
    logits, features = rule(torch.from_numpy(asked))
    seen = scaler.transform(asked.astype(np.float64))
    assert np.array_equal(logits.argmax(dim=1).numpy(), reference.predict(seen))
    np.testing.assert_allclose(features.detach(), seen, atol=1e-4)
    assert bool(logits.isfinite().all())
    probabilities = logits.double().softmax(dim=1).detach().numpy()
    if name == "logistic":
        np.testing.assert_allclose(probabilities, reference.predict_proba(seen), atol=1e-5)
    if name == "knn":
        shares = reference.predict_proba(seen)
        np.testing.assert_allclose(probabilities, (5 * shares + 1 / classes) / 6, atol=1e-6)


def test_the_strength_is_that_of_the_best_answers_on_folds_left_out(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 40)
    noise = rng.normal(size=(120, 60)).astype(np.float32)  # nothing to learn: the strongest regularisation is best
    assert float(fitted("logistic", noise, labels).strength) == STRENGTHS[0]
    plain = noise.copy()
    plain[:, :3] += 8 * np.eye(3, dtype=np.float32)[labels]
    assert float(fitted("logistic", plain, labels).strength) == STRENGTHS[-1]
    monkeypatch.setattr(module, "MOST_SEARCHED", 100)
    assert float(fitted("logistic", plain, labels).strength) == 1e-2


def test_an_svm_says_how_sure_it_is():
    vectors, labels, asked = data(4)
    rule = fitted("svm", vectors, labels)
    scores = rule.scores((torch.from_numpy(asked) - rule.input_mean) / rule.input_std) + rule.bias
    torch.testing.assert_close(rule(torch.from_numpy(asked))[0], scores * rule.scale)
    known = np.random.default_rng(0).normal(size=(4000, 3))
    likely = torch.from_numpy(known * 2.5).softmax(1)
    drawn = torch.multinomial(likely, 1, generator=torch.Generator().manual_seed(0))[:, 0].numpy()
    assert likeliest_scale(known, drawn) == pytest.approx(2.5, rel=0.1)


def test_correlation_is_with_the_mean_vector_of_each_source():
    vectors, labels, asked = data(3, dimensions=30)
    rule = fitted("correlation", vectors, labels)
    means = [vectors[labels == label].astype(np.float64).mean(axis=0) for label in range(3)]
    expected = [[np.corrcoef(row, mean)[0, 1] for mean in means] for row in asked.astype(np.float64)]
    logits, features = rule(torch.from_numpy(asked))
    assert rule.num_features == 3
    np.testing.assert_allclose(features, expected, atol=1e-5)
    torch.testing.assert_close(logits, features * 30**0.5)
    assert bool(rule(torch.zeros(2, 30))[0].isfinite().all())


def test_scores_are_the_features_of_long_vectors():
    vectors, labels, asked = data(3, count=60, dimensions=600)
    rule = fitted("logistic", vectors, labels)
    logits, features = rule(torch.from_numpy(asked))
    assert rule.num_features == features.shape[1] == 3
    torch.testing.assert_close(features + rule.bias, logits)


@pytest.mark.parametrize("name", RULES)
def test_a_fitted_rule_travels_in_its_weights(name):
    vectors, labels, asked = data()
    rule, other = fitted(name, vectors, labels), build_rule(name, vectors.shape[1], 3)
    other.load_state_dict(rule.state_dict())
    asked = torch.from_numpy(asked)
    for found, expected in zip(other(asked), rule(asked), strict=True):
        assert torch.equal(found, expected)
    again = fitted(name, vectors, labels).state_dict()
    assert all(torch.equal(again[key], value) for key, value in rule.state_dict().items())


@pytest.mark.parametrize("name", RULES)
def test_what_cannot_be_fitted_is_told(name, monkeypatch):
    vectors, labels, _ = data()
    with pytest.raises(ValueError, match=r"no training image of the sources \[3\]"):
        build_rule(name, vectors.shape[1], 4).fit(batches(vectors, labels))
    if name != "correlation":  # which takes any number of images
        monkeypatch.setattr(module, "MOST_NUMBERS", 1000)
        with pytest.raises(ValueError, match="more than 1,000 numbers"):
            build_rule(name, vectors.shape[1], 3).fit(batches(vectors, labels))


def test_a_neighbour_rule_that_is_not_fitted_says_so():
    with pytest.raises(RuntimeError, match="not fitted yet"):
        build_rule("knn", 3, 2)(torch.zeros(1, 3))


def test_rules_stand_beside_networks_that_are_trained():
    shapes = {"seen": (12,), "other": (12,)}
    chosen = choose_networks("logistic", "auto", "mlp", None, {"seen": (12,)})
    networks = ControlledNetworks(chosen, ["seen"], ["other"], shapes, 3, control_seeds=2)
    assert set(networks.rules) == {"main"}
    assert set(networks.learning) == {"other_0", "other_1"}
    assert not networks.networks["main"].bias.requires_grad  # DDP waits for the gradient of every parameter
    chosen = choose_networks("knn", "auto", "auto", None, {"seen": (12,)})
    alone = ControlledNetworks(chosen, ["seen"], ["other"], shapes, 3, control_seeds=2)
    assert not alone.learning
    assert alone.compared == {"seen": ["main"], "other": ["other_0"]}
    vectors, labels, asked = data()
    pairs = ({"seen": seen, "other": -seen} for seen, _ in batches(vectors, labels))
    alone.fit_rules(zip(pairs, torch.from_numpy(labels).split(50), strict=True))
    asked = torch.from_numpy(asked)
    outputs = alone({"seen": asked, "other": -asked})
    torch.testing.assert_close(outputs["main"][0], outputs["other_0"][0])
