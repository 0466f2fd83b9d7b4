"""Verdicts from log odds: who is named, ties, false positives by simulation, combination of images, many users."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.stats import binom

from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.users.keys import (
    KEYS_AT_ONCE,
    KEYS_IN_A_PRODUCT,
    least_weights_against,
    pack_keys,
    weights_against,
)
from lightning_modules.fingerprints.users.verdicts import attribute, combine, family_p_value
from lightning_modules.metrics.evidence import bit_weights, p_values, share_of, trusted

NAMES = [f"user{i}" for i in range(50)]


def odds_of(key, sure=4.0):
    return torch.where(key, sure, -sure)


def test_the_right_user_is_named_and_nobody_for_chance():
    keys = seeded_keys(50, 64, seed=0)
    logits = odds_of(keys[7])
    logits[:5] *= -1
    verdict = attribute(logits, NAMES, pack_keys(keys))
    assert (verdict.user, verdict.matching_bits, verdict.bits) == ("user7", 59, 64)
    assert verdict.p_value == pytest.approx(binom.sf(58, 64, 0.5), rel=1e-12)  # equal weights: matches are counted
    assert verdict.family_p_value == pytest.approx(50 * verdict.p_value)
    assert verdict.family_p_value < 1e-6
    chance = attribute(odds_of(seeded_keys(1, 64, seed=9)[0]), NAMES, pack_keys(keys))
    assert chance.user is None
    assert chance.best_user is not None
    nobody = attribute(logits, [], pack_keys(keys)[:0])
    assert (nobody.user, nobody.best_user, nobody.p_value) == (None, None, 1.0)
    with pytest.raises(ValueError, match=r"found 64 log odds and packed keys \(50, 4\) for 50 users"):
        attribute(logits, NAMES, pack_keys(keys)[:, :4])
    with pytest.raises(ValueError, match="false-positive rate 1"):
        attribute(logits, NAMES, pack_keys(keys), 1.0)
    assert family_p_value(0.3, 10) == 1.0


def test_other_readings_of_an_image_are_tested_with_a_correction():
    keys = seeded_keys(50, 64, seed=0)
    generator = torch.Generator().manual_seed(1)
    answer = torch.randn(64, generator=generator)
    others = torch.randn(9, 64, generator=generator)
    others[3] = odds_of(keys[7])
    verdict = attribute(answer, NAMES, pack_keys(keys), others=others)
    assert (verdict.user, verdict.matching_bits) == ("user7", 64)
    assert verdict.p_value == pytest.approx(2.0**-64 * 32)  # a quarter of the rate for eight readings
    as_it_is = attribute(answer, NAMES, pack_keys(keys), others=others.roll(-3, 0))
    assert (as_it_is.user, as_it_is.p_value) == ("user7", pytest.approx(2.0**-64 * 4))
    assert attribute(answer, NAMES, pack_keys(keys)).user is None
    plain = attribute(odds_of(keys[7]), NAMES, pack_keys(keys), others=others.roll(5, 1))
    assert plain.user == "user7"
    assert plain.p_value == pytest.approx(2.0**-64 * 2)
    several = attribute(
        answer.expand(4, -1), NAMES, pack_keys(keys), others=odds_of(keys[8], 0.4).expand(2, 4, -1)
    )  # four images, all put back in one of two ways
    assert several.user == "user8"


def test_sure_bits_outweigh_unsure_ones():
    """The user who agrees in fewer bits is named where those are the ones that were read well."""
    keys = seeded_keys(2, 32, seed=1)
    keys[1] = keys[0]
    keys[1, :6] ^= True
    logits = odds_of(keys[0], 5.0)
    logits[:6] *= -0.05
    logits[6:8] *= -0.02
    verdict = attribute(logits, ["a", "b"], pack_keys(keys))
    assert (verdict.user, verdict.matching_bits) == ("b", 30)
    logits[:2] *= -100.0
    assert attribute(logits, ["a", "b"], pack_keys(keys)).user == "a"


def test_log_odds_of_zero_say_nothing():
    keys = pack_keys(seeded_keys(3, 32, seed=0))
    verdict = attribute(torch.zeros(32), ["a", "b", "c"], keys)
    assert (verdict.user, verdict.p_value, verdict.family_p_value) == (None, 1.0, 1.0)


def test_a_tie_gives_no_verdict():
    keys = torch.zeros(2, 64, dtype=torch.bool)
    keys[0, 0] = keys[1, 1] = True
    verdict = attribute(torch.full((64,), -3.0), ["a", "b"], pack_keys(keys))
    assert verdict.family_p_value < 1e-6
    assert (verdict.user, verdict.best_user) == (None, "a")


def test_the_false_positive_rate_holds_for_a_biased_decoder():
    """A decoder that always answers nearly the same is wrongly convinced no more often than stated."""
    rate, trials = 0.05, 1500
    logits = torch.linspace(-3.0, 9.0, 32)
    keys = pack_keys(seeded_keys(5 * trials, 32, seed=0))
    named = sum(attribute(logits, list("abcde"), some, rate).user is not None for some in np.split(keys, trials))
    assert named / trials <= rate + 3 * (rate / trials) ** 0.5
    assert named / trials > rate / 2  # Bonferroni loses little, the exact tail nothing


def test_images_combine_into_one_estimate():
    generator = torch.Generator().manual_seed(0)
    keys = seeded_keys(50, 64, seed=3)
    logits = odds_of(keys[3], 1.0) + 2.0 * torch.randn(12, 64, generator=generator)
    alone = [attribute(row, NAMES, pack_keys(keys)) for row in logits]
    together = attribute(logits, NAMES, pack_keys(keys))
    assert together.user == "user3"
    assert together.p_value < 1e-3 * min(verdict.p_value for verdict in alone)
    assert torch.equal(combine(logits), trusted(logits).sum(dim=0))
    assert torch.equal(combine(logits[:1]), trusted(logits[:1])[0])


def test_an_image_with_log_odds_of_hundreds_does_not_shout_down_the_others():
    keys = seeded_keys(2, 64, seed=4)
    generator = torch.Generator().manual_seed(1)
    right = odds_of(keys[0], 6.0) + torch.randn(5, 64, generator=generator)
    wrong = 500.0 * torch.randn(1, 64, generator=generator)
    assert attribute(torch.cat([right, wrong]), ["a", "b"], pack_keys(keys)).user == "a"
    assert bool(((right.sum(dim=0) + wrong[0] > 0) != keys[0]).sum() > 20)  # as it would be without


@pytest.mark.parametrize("bits", [5, 24, 32, 61, 64])
def test_look_ups_by_bytes_or_pairs_agree_with_sums_over_bits(bits):
    generator = torch.Generator().manual_seed(bits)
    keys = torch.rand(KEYS_AT_ONCE + 3, bits, generator=generator) > 0.5
    logits = torch.randn(1, bits, generator=generator)
    weights = bit_weights(trusted(logits))[0]
    found = weights_against(weights, logits[0] > 0, pack_keys(keys))
    assert np.array_equal(found, np.where((keys != (logits > 0)).numpy(), weights, 0).sum(axis=1))


@pytest.mark.parametrize("bits", [5, 32, 61, 64, 256])
def test_the_least_weights_of_many_readings_are_those_of_single_look_ups(bits):
    """Exact, also where one bit has all the weight."""
    generator = torch.Generator().manual_seed(bits)
    table = pack_keys(torch.rand(2 * KEYS_IN_A_PRODUCT + 3, bits, generator=generator) > 0.5)
    logits = torch.randn(9, bits, generator=generator)
    logits[7] = 0.0
    logits[8] *= 1e-9
    logits[8, 2] = 5.0
    weights = bit_weights(logits)
    found = least_weights_against(weights, (logits > 0).numpy(), table)
    alone = [weights_against(*one, table).min() for one in zip(weights, logits > 0, strict=True)]
    assert found.tolist() == alone


@pytest.mark.parametrize("readings", [2, 3, 4, 12])
def test_a_verdict_by_many_readings_is_that_of_testing_each(readings):
    """All users' exact p-values in every reading, at its share."""
    generator = torch.Generator().manual_seed(readings)
    keys = seeded_keys(20, 32, seed=6)
    for owner in range(3):
        odds = 2.0 * torch.randn(readings, 32, generator=generator)
        odds[(5 * owner) % readings] = odds_of(keys[owner], 4.0) + 2.0 * torch.randn(32, generator=generator)
        verdict = attribute(odds[0], NAMES[:20], pack_keys(keys), others=odds[1:])
        chances = [p_values(row.expand(20, -1), keys) / share_of(i, readings) for i, row in enumerate(odds)]
        assert verdict.best_user == f"user{owner}"
        assert verdict.p_value == pytest.approx(float(torch.stack(chances).min()), rel=1e-9)


def test_a_large_registry_fits_into_memory():
    n = 200_000
    packed = np.random.default_rng(0).integers(0, 256, size=(n, 8), dtype=np.uint8)
    key = torch.from_numpy(np.unpackbits(packed[123_456]).astype(bool))
    logits = odds_of(key)
    logits[[3, 60]] *= -0.5
    names = [f"user{i}" for i in range(n)]
    tracemalloc.start()
    verdict = attribute(logits, names, packed)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (verdict.user, verdict.matching_bits) == ("user123456", 62)
    assert most < 3e6  # the scores, 4 bytes a user, and a step's work: as floats, the keys alone would be 51 MB
    assert verdict.p_value == pytest.approx(float(p_values(logits[None], key[None])[0]), rel=1e-12)
