"""p-values of log odds: enumeration of all keys, convolution on a longer grid, validity under ties, robustness."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import binom

from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.metrics import evidence
from lightning_modules.metrics.evidence import (
    GRID,
    MOST_MEDIANS,
    TYPICAL_LOG_ODDS,
    bit_weights,
    cumulated,
    most_users,
    p_value,
    p_values,
    p_values_of_readings,
    share_of,
    smallest_p_value,
    trusted,
    weight_against,
)


def drawn(bits, images=20, seed=0):
    generator = torch.Generator().manual_seed(1000 * bits + seed)
    return 3.0 * torch.randn(images, bits, generator=generator)


def every_key(bits):
    return np.array(list(itertools.product([False, True], repeat=bits)))


@pytest.mark.parametrize("bits", [1, 2, 7, 12, 16])
def test_p_values_are_shares_of_all_keys(bits):
    """Exact for the weights, to rounding; for the log odds themselves, but for keys within the grid's step."""
    logits = drawn(bits, 6)
    keys = every_key(bits)
    own = torch.rand(6, bits, generator=torch.Generator().manual_seed(1)) > 0.3
    own = own == (logits > 0)
    found = p_values(logits, own)
    for place, (row, key) in enumerate(zip(bit_weights(trusted(logits)), own.numpy(), strict=True)):
        differing = keys != (logits[place] > 0).numpy()
        mine = key != (logits[place] > 0).numpy()
        against = differing @ row
        assert found[place].item() == pytest.approx((against <= mine @ row).mean(), rel=1e-13)
        odds = trusted(logits)[place].abs().numpy()
        step = odds.sum() / GRID
        exact, observed = differing @ odds, mine @ odds
        least, most = ((exact <= observed + change * bits * step).mean() for change in (-1, 1))
        assert least <= found[place].item() <= most
        if abs(exact - observed)[abs(exact - observed) > 1e-9].min(initial=np.inf) > bits * step:
            assert found[place].item() == (exact <= observed + 1e-9).mean()  # no other key within the grid's step


@pytest.mark.parametrize("bits", [32, 64, 128])
def test_tails_agree_with_a_longer_grid_down_to_1e_12(bits, monkeypatch):
    generator = torch.Generator().manual_seed(bits)
    logits = drawn(bits, 40)
    skill = 20.0 / bits  # evidence that neither says nothing nor leaves the range
    keys = (logits > 0) ^ (torch.rand(40, bits, generator=generator) > torch.sigmoid(skill * logits.abs()))
    found = p_values(logits, keys)
    monkeypatch.setattr(evidence, "GRID", 2**21)
    longer = p_values(logits, keys)
    seen = longer > 1e-13
    assert seen.sum() > 10
    error = (found[seen] / longer[seen] - 1).abs()
    assert float(error.median()) < 1e-3
    assert float(error.max()) < 1e-2


@pytest.mark.parametrize("bits", [64, 128])
def test_the_shift_and_add_is_exact_to_rounding(bits):
    """Against the same sum in exact fractions, at every value, the smallest of 2^-m included."""
    weights = np.random.default_rng(bits).integers(0, 40, size=bits)
    counts = [1] + [0] * int(weights.sum())
    for weight in weights.tolist():
        counts = [count + (counts[place - weight] if place >= weight else 0) for place, count in enumerate(counts)]
    expected = [float(Fraction(total, 2**bits)) for total in itertools.accumulate(counts)]
    found = cumulated(weights, int(weights.sum()))
    assert found == pytest.approx(expected, rel=1e-12)
    for most in (0, 3, 40, int(weights.sum()) // 3):  # cut short, it is the same
        assert np.array_equal(cumulated(weights, most), found[: most + 1])


def test_keys_of_thousands_of_bits_do_not_underflow_early():
    weights = np.ones(1500, dtype=np.int64)
    assert p_value(weights, 600) == pytest.approx(binom.cdf(600, 1500, 0.5), rel=1e-9)


def test_equal_log_odds_count_matches():
    keys = seeded_keys(30, 32, seed=0)
    logits = torch.full((30, 32), 2.5)
    assert p_values(logits, keys).tolist() == pytest.approx(binom.sf(keys.sum(dim=1) - 1, 32, 0.5), rel=1e-12)


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_p_values_are_valid_under_ties(levels):
    """P(p <= r) <= r over all keys, for every r; and no more is lost than an atom."""
    logits = (drawn(12, 1, seed=levels) * levels / 8).round().clamp(-levels, levels)
    keys = torch.from_numpy(every_key(12))
    found = np.sort(p_values(logits.expand(len(keys), -1), keys).numpy())
    reached = np.searchsorted(found, found, side="right") / len(found)
    assert reached == pytest.approx(found, rel=1e-12)  # P(p <= r) = r at each r that p can take


def test_log_odds_of_zero_give_one():
    keys = seeded_keys(4, 32, seed=0)
    assert p_values(torch.zeros(4, 32), keys).tolist() == [1.0] * 4
    assert p_values(torch.full((4, 32), 1e-45), keys).max() < 1.0  # the smallest numbers are numbers


def test_all_bits_right_is_the_smallest_p_value():
    logits = drawn(32)
    assert p_values(logits, logits > 0).tolist() == [smallest_p_value(32)] * 20 == [2.0**-32] * 20
    assert most_users(32, 1e-6) == 4294
    assert 4294 * smallest_p_value(32) <= 1e-6 < 4295 * smallest_p_value(32)
    assert most_users(64, 1e-6) > 1e12
    assert most_users(8, 1e-6) == 0
    with pytest.raises(ValueError, match="false-positive rate 0"):
        most_users(32, 0.0)


def test_calibrated_log_odds_pass_and_those_of_searches_keep_their_ratios():
    logits = drawn(64)
    assert torch.equal(trusted(logits), logits.double())
    hundreds = trusted(300.0 * logits)
    assert float(hundreds.abs().median(dim=1).values.max()) < 1.01 * TYPICAL_LOG_ODDS
    assert torch.allclose(hundreds / hundreds[:, :1], logits.double() / logits.double()[:, :1])
    keys = logits > drawn(64, seed=5)
    assert torch.allclose(p_values(300.0 * logits, keys), p_values(logits, keys), rtol=2e-2)


def test_no_bit_outweighs_the_rest():
    logits = torch.full((1, 64), 2.0)
    logits[0, 0] = 1e6
    key = torch.ones(1, 64, dtype=torch.bool)
    key[0, 0] = False
    assert float(p_values(logits, key)) < 1e-8
    assert trusted(logits)[0, 0] == MOST_MEDIANS * 2.0
    odd = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1.0]])
    assert trusted(odd)[0].isfinite().all()
    assert trusted(odd)[0, 0] == 0.0


def test_an_image_has_its_weights_whatever_the_batch_and_the_order_of_bits():
    logits = drawn(61)
    together = bit_weights(trusted(logits))
    order = torch.randperm(61, generator=torch.Generator().manual_seed(0))
    for place in range(20):
        assert np.array_equal(bit_weights(trusted(logits[place : place + 1]))[0], together[place])
    assert np.array_equal(bit_weights(trusted(logits[:, order])), together[:, order])
    keys = seeded_keys(20, 61, seed=2)
    assert torch.equal(p_values(logits[:, order], keys[:, order]), p_values(logits, keys))
    assert abs(together.sum(axis=1) - GRID).max() <= 61 / 2
    assert weight_against(together, logits > 0, logits > 0).tolist() == [0] * 20


def test_shares_of_readings_add_up_to_the_rate():
    assert share_of(0, 1) == 1.0
    for readings in (2, 10, 33):
        shares = [share_of(reading, readings) for reading in range(readings)]
        assert sum(shares) == pytest.approx(1.0)
        assert shares[0] == 0.5
        assert len(set(shares[2:])) <= 1
    assert [share_of(reading, 4) for reading in range(4)] == [0.5, 0.25, 0.125, 0.125]
    assert [share_of(reading, 2) for reading in range(2)] == [0.5, 0.5]


def test_the_p_value_of_several_readings_is_that_of_the_best_one_with_its_correction():
    generator = torch.Generator().manual_seed(4)
    keys = torch.rand(6, 24, generator=generator) < 0.5
    readings = torch.randn(6, 5, 24, generator=generator)
    for image in range(1, 6):  # image n is read well in reading n - 1
        readings[image, image - 1] += torch.where(keys[image], 2.5, -2.5)
    single = torch.stack([p_values(readings[:, reading], keys) for reading in range(5)], dim=1)
    shares = torch.tensor([share_of(reading, 5) for reading in range(5)], dtype=torch.float64)
    found = p_values_of_readings(readings, keys)
    torch.testing.assert_close(found[1:], (single / shares).amin(dim=1)[1:], rtol=1e-12, atol=0)
    assert bool((found >= (single / shares).amin(dim=1).clamp(max=1.0)).all())
    torch.testing.assert_close(p_values_of_readings(readings[:, :1], keys), single[:, 0], rtol=0, atol=0)


@pytest.mark.parametrize("alike", [True, False])
def test_random_keys_keep_the_rate_over_many_readings(alike):
    """Readings that all agree, or that have nothing to do with each other: 1,500 random keys, rates of 5 and 1 %."""
    generator = torch.Generator().manual_seed(5)
    readings = 3.0 * torch.randn(1500, 1 if alike else 9, 20, generator=generator).expand(-1, 9, -1)
    keys = torch.rand(1500, 20, generator=generator) < 0.5
    found = p_values_of_readings(readings, keys)
    for rate in (0.05, 0.01):
        assert float((found <= rate).double().mean()) < rate + 3 * (rate / 1500) ** 0.5
    if not alike:
        assert float((found <= 0.05).double().mean()) > 0.025  # the correction is no larger than it must be
