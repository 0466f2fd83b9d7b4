"""P-values over sets of images: super-uniform where their hypothesis holds, small where it does not."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from lightning_modules.metrics.set_test import permutation_p_values, set_verdict


def test_it_is_the_exact_test_of_all_subsets():
    rng = np.random.default_rng(0)
    observed, reference = rng.normal(size=(3, 1)), rng.normal(size=(6, 1))
    pooled = np.concatenate([observed, reference])[:, 0]
    sums = [pooled[list(chosen)].sum() for chosen in combinations(range(9), 3)]
    exact = np.mean(np.array(sums) <= observed.sum() + 1e-12)
    assert permutation_p_values(observed, reference, 0)[0] == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(("m", "n"), [(1, 40), (10, 25), (40, 25)])
def test_p_values_are_super_uniform_under_their_hypothesis(m, n):
    """Heavy tails and ties, more images than reference: P(p <= a) <= a, and nearly a."""
    p = []
    for seed in range(400):
        rng = np.random.default_rng([seed, m])
        scores = -rng.lognormal(0, 2, (m + n, 1)).round(1)
        p.append(float(permutation_p_values(scores[:m], scores[m:], seed, 199)[0]))
    for level in (0.05, 0.1, 0.25, 0.5):
        share = np.mean(np.array(p) <= level)
        assert share <= level + 3 * np.sqrt(level * (1 - level) / len(p))
    assert np.mean(np.array(p) <= 0.5) > 0.35


def source_scores(rng: np.random.Generator, true: int, count: int, sources: int = 3) -> np.ndarray:
    """Log probabilities of every source, of images of one: `(count, sources)`."""
    logits = rng.normal(0, 2, (count, sources))
    if true >= 0:
        logits[:, true] += 2.5
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


NAMES = ("a", "b", "c")


def verdict_of(seed: int, true: int, m: int, unlike: float = 0.0):
    """Of m images of a source; -1 for one that is not trained, whose images are `unlike` the others."""
    rng = np.random.default_rng([seed, 7])
    reference = {}
    for place, name in enumerate(NAMES):
        logs = source_scores(rng, place, 60)
        reference[name] = np.stack([logs[:, place], rng.normal(size=60)], axis=1)
    logs, likeness = source_scores(rng, true, m), rng.normal(-unlike, 1, m)
    observed = {name: np.stack([logs[:, place], likeness], axis=1) for place, name in enumerate(NAMES)}
    return set_verdict(observed, reference, seed=seed, draws=999)


def test_the_promises_of_a_verdict_hold():
    found = [verdict_of(seed, seed % 3, 8) for seed in range(150)]
    truth = [NAMES[seed % 3] for seed in range(150)]
    allowance = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)
    assert np.mean([name not in each.not_refused for name, each in zip(truth, found, strict=True)]) <= allowance
    assert np.mean([each.none_of_these <= 0.05 for each in found]) <= allowance
    wrong = [each.named not in (name, None) and each.others <= 0.05 for name, each in zip(truth, found, strict=True)]
    assert np.mean(wrong) <= allowance
    assert np.mean([each.named == name for name, each in zip(truth, found, strict=True)]) > 0.9


def test_a_larger_set_says_more():
    small, large = (np.median([verdict_of(seed, 0, m).others or 1.0 for seed in range(30)]) for m in (2, 20))
    assert large < 0.01 < small


def test_a_source_nobody_knows_is_refused_by_all():
    found = [verdict_of(seed, -1, 15, unlike=2.0) for seed in range(30)]
    assert np.mean([each.named is None for each in found]) > 0.9
    assert np.mean([each.none_of_these <= 0.05 for each in found]) > 0.9
    one = found[0]
    assert one.others is None
    assert set(one.p_values) == set(NAMES) == set(one.log_probabilities)


def test_the_same_set_has_the_same_verdict():
    assert verdict_of(3, 1, 5) == verdict_of(3, 1, 5)
