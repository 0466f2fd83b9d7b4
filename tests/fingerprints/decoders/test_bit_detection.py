"""Bits decided together: against all keys one by one, the size of the odds, what is known beforehand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lightning_modules.fingerprints.decoders.bit_detection import decide

BITS, AXES, COUNT = 8, 5, 300
KEYS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=BITS)), dtype=torch.float64)


@pytest.fixture(scope="module")
def problem() -> tuple[Tensor, Tensor]:
    """Estimates of keys whose errors hang together strongly, and their precision."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(COUNT, AXES + BITS, AXES + BITS, generator=generator, dtype=torch.float64)
    spread = torch.logspace(-1.5, 0.7, AXES + BITS, dtype=torch.float64)
    precision = (mixing * spread) @ mixing.mT + 0.1 * torch.eye(AXES + BITS, dtype=torch.float64)
    errors = torch.linalg.solve_triangular(
        torch.linalg.cholesky(precision).mT,
        torch.randn(COUNT, AXES + BITS, 1, generator=generator, dtype=torch.float64),
        upper=True,
    )
    truth = KEYS[torch.randint(len(KEYS), (COUNT,), generator=generator)]
    return truth + errors[:, AXES:, 0], precision


def costs(key: Tensor, precision: Tensor, odds: Tensor) -> Tensor:
    """Negative log posterior of every key `(n, 2^m)`, with the key's covariance taken from the inverse of the whole."""
    covariance = torch.linalg.inv(precision)[:, AXES:, AXES:]
    away = KEYS - key[:, None]
    return 0.5 * (away @ torch.linalg.inv(covariance) * away).sum(dim=2) - odds @ KEYS.T


def cost_of(bits: Tensor, table: Tensor) -> Tensor:
    number = (bits.long() * 2 ** torch.arange(BITS - 1, -1, -1)).sum(dim=1)
    return table.gather(1, number[:, None])[:, 0]


def others_best(bits: Tensor, table: Tensor) -> Tensor:
    """Least cost among all keys that have the other value at each bit, `(n, m)`."""
    same = KEYS[None, :, :] == bits[:, None, :].double()  # (n, 2^m, m)
    return table[:, :, None].masked_fill(same, float("inf")).min(dim=1).values


@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_the_best_of_all_keys_is_found_and_never_a_worse_one_than_by_rounding(problem, strength):
    key, precision = problem
    odds = strength * torch.randn(key.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    table = costs(key, precision, odds)
    decided, rounded = decide(key, precision, odds) > 0, key > 0.5
    assert bool((cost_of(decided, table) <= cost_of(rounded, table) + 1e-6).all())
    best = KEYS[table.argmin(dim=1)] > 0.5
    assert float((rounded == best).all(dim=1).double().mean()) < 0.2  # there is something to find
    assert float((decided == best).all(dim=1).double().mean()) > 0.9
    least = table.min(dim=1).values
    missed, missed_by_rounding = cost_of(decided, table) - least, cost_of(rounded, table) - least
    assert float(missed.mean()) < 0.02 * float(missed_by_rounding.mean())


def test_odds_have_the_sign_of_the_decision_and_are_bounds_from_above(problem):
    key, precision = problem
    even = torch.zeros_like(key)
    table = costs(key, precision, even)
    odds = decide(key, precision)
    bits = odds > 0
    found = cost_of(bits, table)
    exact = (others_best(bits, table) - found[:, None]).clamp_min(0.0)
    assert bool((odds.abs().double() >= exact - 1e-3).all())
    flipped = torch.stack([cost_of(bits ^ (torch.arange(BITS) == j), table) for j in range(BITS)], dim=1)
    assert bool((odds.abs().double() <= (flipped - found[:, None]).clamp_min(0.0) + 1e-3).all())
    close = (odds.abs().double() - exact).abs() < 1e-2 + 1e-3 * exact
    single = ((flipped - found[:, None]) - exact).abs() < 1e-2 + 1e-3 * exact
    assert float(close.double().mean()) > 0.5
    assert float(close.double().mean()) > 1.5 * float(single.double().mean())  # pairs of bits make bounds tighter


def test_odds_of_independent_bits_are_exact_and_add_to_what_is_known_beforehand():
    key = torch.tensor([[0.9, 0.45, 0.2, 0.55]])
    precision = torch.diag_embed(torch.tensor([[3.0, 1.0, 4.0, 10.0, 0.5]]))  # one coordinate, four bits
    likelihood = torch.tensor([[1.0, 4.0, 10.0, 0.5]]) * (key - 0.5)
    assert torch.allclose(decide(key, precision), likelihood, atol=1e-5)
    known = torch.tensor([[-2.0, 1.0, 0.5, 0.0]])
    odds = decide(key, precision, known)
    assert torch.allclose(odds, likelihood + known, atol=1e-5)
    assert odds.gt(0).tolist() == [[False, True, False, True]]


def test_what_is_known_decides_where_the_image_says_nothing(problem):
    key, precision = problem
    known = 5.0 * (2.0 * KEYS[torch.arange(COUNT) % len(KEYS)] - 1.0)
    odds = decide(key, 1e-6 * precision, known)
    assert torch.allclose(odds.double(), known, atol=0.05)


def test_a_prior_of_equal_width_on_every_bit_changes_nothing(problem):
    key, precision = problem
    wide = torch.zeros(AXES + BITS, dtype=torch.float64)
    wide[AXES:] = 4.0
    with_prior = precision + torch.diag(wide)
    # the estimate that the same likelihood and the prior of centre 1/2 give together
    inner = torch.linalg.inv(torch.linalg.inv(precision)[:, AXES:, AXES:])
    pulled = torch.linalg.solve(inner + 4.0 * torch.eye(BITS), (inner @ key[:, :, None])[:, :, 0] + 4.0 * 0.5)
    assert float((pulled - key).abs().mean()) > 0.1
    equal = (decide(pulled, with_prior) - decide(key, precision)).abs().max(dim=1).values < 1e-3
    assert float(equal.double().mean()) > 0.9  # the search begins elsewhere and may end elsewhere


def test_images_are_decided_apart(problem):
    key, precision = problem
    together = decide(key, precision)
    assert torch.allclose(together[7:8], decide(key[7:8], precision[7:8]), atol=1e-5)
    assert together.dtype == torch.float32


def test_a_key_of_one_bit_is_decided():
    precision = torch.tensor([[[2.0, 1.0], [1.0, 3.0]]])
    marginal = 3.0 - 1.0 / 2.0
    assert torch.allclose(decide(torch.tensor([[0.8]]), precision), torch.tensor([[marginal * 0.3]]))
