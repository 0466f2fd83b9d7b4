"""The fast way to a Frechet distance squares small numbers: its error, and when it must not be taken."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from lightning_modules.metrics.frechet import (
    BLOCK,
    GaussianFactor,
    frechet_distance,
    gram,
    lower_congruence,
    pairwise_frechet,
)

D = 200
AXES = torch.arange(1, D + 1, dtype=torch.float64)
SPECTRA = {
    "flat": torch.ones_like(AXES),
    "1/k": 1 / AXES,
    "1/k^2": AXES**-2,
    "1/k^4": AXES**-4,
    "exponential": torch.exp(-30 * AXES / D),
    "spike": torch.where(AXES == 1, 1e8, 1.0),
    "low rank 1e-8": torch.where(AXES > D // 10, 1e-8, 1.0),
    "low rank 1e-13": torch.where(AXES > D // 10, 1e-13, 1.0),
    "low rank": torch.where(AXES > D // 10, 0.0, 1.0),
}


def sample(spectrum: str, seed: int, n: int = 300) -> Tensor:
    """`(n, D)`; axes of both seeds are alike, but not the same."""
    common = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(99), dtype=torch.float64)).Q
    generator = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.eye(D) + 0.05 * torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    rows = torch.randn(n, D, generator=generator, dtype=torch.float64) * SPECTRA[spectrum].sqrt()
    return rows @ turned @ common


def unsquared(first: Tensor, second: Tensor) -> float:
    """The distance by numpy from the nuclear norm of all products of centred rows: no covariance is ever formed."""
    rows = [(part - part.mean(0)).numpy() / np.sqrt(len(part) - 1) for part in (first, second)]
    nuclear = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
    shift = (first.mean(0) - second.mean(0)).square().sum().item()
    return float(shift + sum((part**2).sum() for part in rows) - 2 * nuclear)


@pytest.fixture
def singular_values(monkeypatch):
    """How often singular values were asked for."""
    calls = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda matrix: calls.append(matrix.shape) or svdvals(matrix))
    return calls


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations_with_replacement(SPECTRA, 2)))
def test_spectra_of_every_kind(first: str, second: str):
    rows = sample(first, 1), sample(second, 2)
    found = GaussianFactor.from_features(rows[0]).distance(GaussianFactor.from_features(rows[1])).item()
    assert found == pytest.approx(unsquared(*rows), rel=1e-7)


@pytest.mark.parametrize("spectrum", ["flat", "1/k", "1/k^2"])
def test_well_resolved_covariances_take_the_fast_way_and_lose_nothing(spectrum: str, singular_values):
    rows = sample(spectrum, 1), sample(spectrum, 2)
    found = GaussianFactor.from_features(rows[0]).distance(GaussianFactor.from_features(rows[1])).item()
    assert singular_values == []
    assert found == pytest.approx(unsquared(*rows), rel=1e-11)


@pytest.mark.parametrize("case", ["low rank", "nearly equal"])
def test_where_rounding_could_be_felt_singular_values_are_taken(case: str, singular_values):
    rows = sample("low rank" if case == "low rank" else "1/k^4", 1), sample("low rank", 2)
    if case == "nearly equal":
        rows = rows[0], rows[0] * (1 + 1e-6)
    found = GaussianFactor.from_features(rows[0]).distance(GaussianFactor.from_features(rows[1])).item()
    assert len(singular_values) == 1
    assert found == pytest.approx(unsquared(*rows), rel=1e-10 if case == "low rank" else 1e-2, abs=1e-15)


@pytest.mark.parametrize(("first", "second"), [("1/k", "1/k^2"), ("exponential", "1/k"), ("spike", "flat")])
def test_badly_conditioned_moments_agree_with_scipy(first: str, second: str):
    rows = sample(first, 1).numpy(), sample(second, 2).numpy()
    covariances = [np.cov(part, rowvar=False) for part in rows]
    root = np.real(scipy.linalg.sqrtm(covariances[0] @ covariances[1]))
    shift = rows[0].mean(0) - rows[1].mean(0)
    expected = shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root)
    moments = [
        (torch.from_numpy(part.mean(0)), torch.from_numpy(cov)) for part, cov in zip(rows, covariances, strict=1)
    ]
    assert frechet_distance(*moments[0], *moments[1]).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [120, 201, 260])
def test_fewer_and_more_samples_than_dimensions_mix(n: int):
    rows = sample("1/k", 1, n), sample("1/k^2", 2, 190)
    gaussians = [GaussianFactor.from_features(part) for part in rows]
    expected = unsquared(*rows)
    assert gaussians[0].distance(gaussians[1]).item() == pytest.approx(expected, rel=1e-8)
    assert gaussians[1].distance(gaussians[0]).item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("d", [5, BLOCK, 2 * BLOCK + 7])
def test_blocked_products_are_the_products(d: int):
    generator = torch.Generator().manual_seed(d)
    rows = torch.randn(d + 3, d, generator=generator, dtype=torch.float64)
    symmetric = gram(rows)
    torch.testing.assert_close(symmetric, rows.T @ rows, rtol=1e-12, atol=1e-12)
    lower = torch.randn(d, d, generator=generator, dtype=torch.float64).tril()
    expected = lower.T @ symmetric @ lower
    torch.testing.assert_close(lower_congruence(lower, symmetric).tril(), expected.tril(), rtol=1e-11, atol=1e-9)


def test_features_without_a_distance_are_refused():
    rows = sample("flat", 1)
    rows[3, 5] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        GaussianFactor.from_features(rows)


@pytest.mark.parametrize("n", [2, 150, 161, 162, 185, 199, 200, 201, 202])
@pytest.mark.parametrize(("first", "second"), [("1/k", "1/k"), ("1/k", "exponential"), ("flat", "low rank")])
def test_numbers_of_samples_around_the_dimension(first: str, second: str, n: int):
    for other in (n, 190):  # both sides with few samples, nearly as many as dimensions, or more
        rows = sample(first, 1, n), sample(second, 2, other)
        found = GaussianFactor.from_features(rows[0]).distance(GaussianFactor.from_features(rows[1])).item()
        assert found == pytest.approx(unsquared(*rows), rel=1e-7)


def test_nearly_as_many_samples_as_dimensions_are_brought_to_a_triangle():
    rows = sample("1/k", 1, 190)
    gaussian = GaussianFactor.from_features(rows)
    triangle = gaussian.triangle
    assert triangle.shape == (D, 189)
    assert torch.equal(triangle, triangle.tril())
    torch.testing.assert_close(triangle @ triangle.T, torch.cov(rows.T), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gaussian.products, torch.cov(rows.T), rtol=1e-10, atol=1e-12)
    assert GaussianFactor.from_features(rows[:100]).triangle is None
    assert GaussianFactor.from_features(sample("1/k", 1, 250)).triangle is None


@pytest.mark.parametrize("n", [100, 190, 250])
def test_pairs_on_several_threads_have_the_bits_of_one(n: int):
    gaussians = [sample("1/k", seed, n) for seed in range(1, 5)]
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(1)
            factors = [GaussianFactor.from_features(rows) for rows in gaussians]
            torch.set_num_threads(count)
            found.append(pairwise_frechet(factors))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
