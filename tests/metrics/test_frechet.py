from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from frechet_of_features import frechet_distance_of_features
from torch import Tensor

from lightning_modules.metrics.frechet import (
    GaussianFactor,
    frechet_distance,
    pairwise_frechet,
)


def reference(features1: np.ndarray, features2: np.ndarray) -> float:
    """The textbook formula with scipy's matrix square root."""
    covariance1, covariance2 = np.cov(features1, rowvar=False), np.cov(features2, rowvar=False)
    root = scipy.linalg.sqrtm(covariance1 @ covariance2)
    shift = features1.mean(0) - features2.mean(0)
    return float(shift @ shift + np.trace(covariance1 + covariance2 - 2 * np.real(root)))


def sample(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + shift


def orthogonal(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(sample(d, d, seed)).Q


def test_commuting_covariances_have_the_analytic_distance():
    axes = orthogonal(6, 0)
    scale1, scale2 = torch.tensor([1.0, 2, 3, 4, 5, 0]).double(), torch.tensor([3.0, 1, 2, 0, 5, 7]).double()
    mean1, mean2 = sample(2, 6, 1)
    expected = (mean1 - mean2).square().sum() + (scale1 - scale2).square().sum()
    found = frechet_distance(mean1, axes @ torch.diag(scale1**2) @ axes.T, mean2, axes @ torch.diag(scale2**2) @ axes.T)
    assert found.dtype == torch.float64
    # singular covariances: eigenvalues of their product, up to 1225, are known to 1225 eps, and the root of a zero one
    # to 5e-7; how much of that shows depends on the processor
    assert found.item() == pytest.approx(expected.item(), abs=2e-6)


def test_one_dimension_is_the_distance_of_means_and_deviations():
    found = frechet_distance(torch.tensor([1.0]), torch.tensor([[4.0]]), torch.tensor([4.0]), torch.tensor([[25.0]]))
    assert found.item() == pytest.approx(9 + 9)


@pytest.mark.parametrize(
    ("n1", "n2", "d"),
    [(200, 300, 12), (12, 12, 12), (12, 40, 12), (13, 14, 12)],
    ids=["n>d", "n=d", "mixed", "n just above d"],
)
def test_features_agree_with_scipy(n1: int, n2: int, d: int):
    first, second = sample(n1, d, 1), sample(n2, d, 2, shift=0.5)
    expected = reference(first.numpy(), second.numpy())
    # sqrtm of a singular product is itself only good to about sqrt(eps)
    assert frechet_distance_of_features(first, second).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n1", "n2", "d"), [(10, 14, 40), (30, 80, 40)], ids=["both n<d", "one n<d"])
def test_fewer_samples_than_dimensions_agree_with_moments(n1: int, n2: int, d: int):
    first, second = sample(n1, d, 3), sample(n2, d, 4, shift=0.5)
    # Independent of the nuclear norm: tr sqrt(S1 S2) from the eigenvalues of the full non-symmetric product.
    covariance1, covariance2 = np.cov(first.numpy(), rowvar=False), np.cov(second.numpy(), rowvar=False)
    cross = np.sqrt(np.linalg.eigvals(covariance1 @ covariance2).real.clip(0)).sum()
    shift = (first.mean(0) - second.mean(0)).square().sum().item()
    expected = shift + np.trace(covariance1) + np.trace(covariance2) - 2 * cross
    found = frechet_distance_of_features(first, second).item()
    assert found == pytest.approx(expected, rel=1e-6)
    of_moments = frechet_distance(
        first.mean(0), torch.from_numpy(covariance1), second.mean(0), torch.from_numpy(covariance2)
    )
    assert of_moments.item() == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize("n", [15, 100])
def test_invariances(n: int):
    first, second = sample(n, 30, 5), sample(n, 30, 6, shift=1.0)
    distance = frechet_distance_of_features(first, second).item()
    rotated = orthogonal(30, 7)
    assert frechet_distance_of_features(second, first).item() == pytest.approx(distance, rel=1e-10)
    assert frechet_distance_of_features(first + 3, second + 3).item() == pytest.approx(distance, rel=1e-10)
    assert frechet_distance_of_features(first @ rotated, second @ rotated).item() == pytest.approx(distance, rel=1e-10)
    assert frechet_distance_of_features(2 * first, 2 * second).item() == pytest.approx(4 * distance, rel=1e-10)
    assert frechet_distance_of_features(first.flip(0), second).item() == pytest.approx(distance, rel=1e-10)


@pytest.mark.parametrize("n", [15, 100])
def test_same_sample_has_distance_zero_and_a_shift_its_square(n: int):
    features = sample(n, 30, 8)
    scale = features.var(0).sum().item()
    assert 0 <= frechet_distance_of_features(features, features).item() < 1e-12 * scale
    shifted = frechet_distance_of_features(features, features + 2.0).item()
    assert shifted == pytest.approx(30 * 4.0, rel=1e-10)


def test_float32_features_are_computed_in_float64():
    features = (sample(100, 5, 9) + 1e3).float()  # in float32 the covariance of a shifted cloud drowns in rounding
    other = (sample(100, 5, 10) + 1e3).float()
    expected = reference(features.double().numpy(), other.double().numpy())
    assert frechet_distance_of_features(features, other).item() == pytest.approx(expected, rel=1e-8)


def test_pairwise_holds_every_pair():
    samples = [sample(n, 10, seed, shift=seed / 5) for seed, n in enumerate((6, 25, 40, 9))]
    found = pairwise_frechet([GaussianFactor.from_features(features) for features in samples])
    assert torch.equal(found, found.T)
    for i in range(4):
        for j in range(4):
            expected = frechet_distance_of_features(samples[i], samples[j]).item() if i != j else 0.0
            assert found[i, j].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("features", "message"),
    [(torch.zeros(1, 4), "at least 2"), (torch.zeros(8), r"\(n, d\)"), (torch.zeros(2, 3, 4), r"\(n, d\)")],
)
def test_unfit_features_are_refused(features: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        frechet_distance_of_features(features, torch.zeros(5, 4))


def test_unfit_moments_are_refused():
    mean, unit = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match="not symmetric"):
        frechet_distance(mean, torch.tensor([[1.0, 0.9], [0.0, 1.0]]), mean, unit)
    with pytest.raises(ValueError, match="eigenvalue -1"):
        frechet_distance(mean, torch.diag(torch.tensor([1.0, -1.0])), mean, unit)
    with pytest.raises(ValueError, match=r"\(d, d\)"):
        frechet_distance(mean, torch.eye(3), mean, unit)
    with pytest.raises(ValueError, match="2 and 3 dimensions"):
        frechet_distance(mean, unit, torch.zeros(3), torch.eye(3))
