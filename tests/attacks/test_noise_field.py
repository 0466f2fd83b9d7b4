"""The shared tables behave as independent normal numbers would, within an image and between images."""

from __future__ import annotations

import numpy as np
import pytest
from coloured_images import some_seeds
from scipy.stats import binom, chisquare, kstest, kurtosis, norm, skew

from lightning_modules.attacks.noise_field import RUN, _tables, noise_field

SHAPE = (3, 64, 64)


def fields(n: int, shape: tuple[int, ...] = SHAPE, seed: int = 3) -> np.ndarray:
    return noise_field(some_seeds(n, seed).numpy(), shape, np.ones(n))


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    return fields(256)  # 3.1 million values


def test_values_are_normal(field):
    values = field.ravel().astype(np.float64)
    n = len(values)
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(skew(values)) < 4 * np.sqrt(6 / n)
    assert abs(kurtosis(values)) < 4 * np.sqrt(24 / n)
    assert kstest(values[::37], "norm").pvalue > 1e-3


def test_tails_are_as_heavy_as_normal_ones(field):
    values = np.abs(field.ravel())
    for limit in (3.0, 3.5, 4.0, 4.5):
        expected = 2 * norm.sf(limit) * values.size
        assert abs((values > limit).sum() - expected) < 5 * np.sqrt(expected), limit
    assert 4.6 < values.max() < 6.5


def test_each_image_has_its_own_mean_and_variance_as_independent_values_would(field):
    rows = field.reshape(len(field), -1).astype(np.float64)
    n = rows.shape[1]
    assert kstest(rows.mean(1) * np.sqrt(n), "norm").pvalue > 1e-3
    assert kstest((rows.var(1) - 1) / np.sqrt(2 / n), "norm").pvalue > 1e-3


def test_the_spectrum_is_flat(field):
    power = (np.abs(np.fft.rfft(field.reshape(len(field), -1), axis=1)) ** 2).mean(0) / field[0].size
    inner = power[1:-1]
    assert abs(inner.mean() - 1) < 0.01
    assert inner.max() < 1.5  # 256 exponential values averaged: 8 standard deviations
    bands = inner[: len(inner) // 16 * 16].reshape(16, -1).mean(1)  # low frequencies to high ones
    assert np.abs(bands - 1).max() < 5 / np.sqrt(256 * len(inner) / 16)
    planes = (np.abs(np.fft.rfft2(field)) ** 2).mean((0, 1)) / 64**2
    assert planes[1:, 1:-1].max() < 1.4


def test_neighbours_in_space_and_channels_are_independent(field):
    pairs = [
        (field[..., 1:], field[..., :-1]),
        (field[..., 1:, :], field[..., :-1, :]),
        (field[:, 0], field[:, 1]),
        (field[:, 0], field[:, 2]),
        (field[..., :16, :], field[..., 16:32, :]),  # one run apart
        (np.abs(field[..., 1:]), np.abs(field[..., :-1])),
    ]
    for first, second in pairs:
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / np.sqrt(first.size)


def test_images_are_independent(field):
    rows = field.reshape(len(field), -1).astype(np.float64)
    correlation = (rows @ rows.T / rows.shape[1])[np.triu_indices(len(rows), 1)] * np.sqrt(rows.shape[1])
    assert kstest(correlation, "norm").pvalue > 1e-3  # 32,640 pairs
    assert np.abs(correlation).max() < 5.5


def test_no_run_of_values_comes_again_however_it_is_shifted(field):
    """One table alone would give the same values in another place as soon as two places overlap."""
    rows = field.reshape(len(field), -1)
    levels = np.unique(rows.round(5).view([("", rows.dtype)] * 8)[:, ::8])  # eight values in a row
    assert len(levels) == len(rows) * rows.shape[1] // 64


def test_images_that_share_part_of_a_table_are_few_and_hardly_correlated():
    rows = fields(400, (1, 32, 32), seed=8).reshape(400, -1)  # one run each: correlated at any shift?
    spectra = np.fft.rfft(rows, 2 * RUN, axis=1)
    largest = []
    for lag in range(1, 40):
        products = np.fft.irfft(spectra[lag:] * spectra[:-lag].conj(), axis=1) / RUN
        largest.append(np.abs(products).max(1))
    shared = np.concatenate(largest) > 0.25  # 8 standard deviations of independent runs
    assert shared.mean() < 0.004


def test_a_field_belongs_to_its_seed_and_scales_with_std():
    seeds = some_seeds(70).numpy()
    whole = noise_field(seeds, (3, 28, 28), np.linspace(0, 1, 70))
    for row in (0, 31, 69):
        alone = noise_field(seeds[row : row + 1], (3, 28, 28), np.linspace(0, 1, 70)[row : row + 1])
        assert np.array_equal(whole[row : row + 1], alone)
    assert not whole[0].any()
    unit = noise_field(seeds, (3, 28, 28), np.ones(70))
    assert np.allclose(whole, unit * np.linspace(0, 1, 70)[:, None, None, None], atol=1e-6)
    assert noise_field(seeds[:0], (3, 8, 8), np.ones(0)).shape == (0, 3, 8, 8)


def test_signs_are_fair_for_every_seed():
    heads = (fields(600, (64,), seed=9) > 0).sum(1)
    counts = np.bincount(np.digitize(heads, [27, 30, 33, 36]), minlength=5)
    ends = binom.cdf([26, 29, 32, 35], 64, 0.5)
    assert chisquare(counts, 600 * np.diff([0, *ends, 1])).pvalue > 1e-3


def test_tables_hold_numbers_from_the_beginning():
    """What memory held before is not reckoned with."""
    _tables.cache_clear()
    with np.errstate(all="raise"):
        first, second = _tables()
    assert np.isfinite(first[::RUN]).all()
    assert np.array_equal(first[-1, 1:], first[0, :-1])
    assert not np.array_equal(first[0], second[0])
