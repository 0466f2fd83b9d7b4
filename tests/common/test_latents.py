from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest

from lightning_modules.common.random_streams import standard_normal_latents


def test_rows_are_standard_normal_and_independent():
    latents = standard_normal_latents(4000, 8, seed=11)
    assert kstest(latents.flatten().numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(latents.T) - torch.eye(8)
    assert correlation.abs().max() < 0.1
    neighbours = torch.corrcoef(torch.stack([latents[:-1].flatten(), latents[1:].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 0.03


def test_no_two_pairs_of_seed_and_index_share_a_row():
    rows = torch.cat([standard_normal_latents(500, 4, seed, start=0) for seed in (0, 1, 2**32, 2**33 + 1)])
    assert len(torch.unique(rows, dim=0)) == 2000


def test_a_row_does_not_depend_on_the_others_or_on_torch():
    torch.manual_seed(1)
    first = standard_normal_latents(5, 3, seed=9, start=100)
    torch.manual_seed(2)
    again = torch.cat([standard_normal_latents(1, 3, seed=9, start=100 + i) for i in range(5)])
    assert torch.equal(first, again)
    assert standard_normal_latents(0, 3, seed=9).shape == (0, 3)


@pytest.mark.parametrize(("n", "seed", "start"), [(-1, 0, 0), (1, -1, 0), (1, 0, -1), (1, 2**64, 0)])
def test_impossible_requests_are_refused(n, seed, start):
    with pytest.raises(ValueError, match="expected"):
        standard_normal_latents(n, 3, seed, start)
