"""What a fingerprint adds to a Frechet distance, with its interval."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.metrics.fid import distance_difference
from lightning_modules.metrics.frechet import frechet_distance

D, N = 8, 400


def gaussian(seed, shift=0.0, n=N):
    rows = torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows[:, 0] += shift
    return rows


def moments(rows):
    return rows.mean(dim=0), torch.cov(rows.T)


def test_the_value_is_the_difference_of_both_distances():
    reference, compared, base = gaussian(0), gaussian(1, 0.5), gaussian(2)
    found = distance_difference(reference, compared, base)
    expected = frechet_distance(*moments(reference), *moments(compared))
    expected = expected - frechet_distance(*moments(reference), *moments(base))
    assert found.value == pytest.approx(float(expected), rel=1e-9)
    assert found.n == N


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_intervals_hold_the_truth(shift):
    """Distances of Gaussians that differ in their mean alone are its square: 95 of 100 intervals should hold that."""
    found = [distance_difference(gaussian(3 * n), gaussian(3 * n + 1, shift), gaussian(3 * n + 2)) for n in range(60)]
    assert sum(one.low <= shift**2 <= one.high for one in found) >= 55
    assert sum(one.value for one in found) / len(found) == pytest.approx(shift**2, abs=0.03)


def test_few_images_have_no_interval_and_unequal_sets_are_refused():
    few = distance_difference(gaussian(0, n=30), gaussian(1, n=30), gaussian(2, n=30))
    assert (few.low, few.high, few.interval) == (None, None, "none")
    with pytest.raises(ValueError, match="found 400, 30 and 400 images"):
        distance_difference(gaussian(0), gaussian(1, n=30), gaussian(2))
