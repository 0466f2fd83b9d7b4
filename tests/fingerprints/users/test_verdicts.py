"""Verdicts: the paper's table of bits, exact binomial tails, false positives by simulation, combination of images."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.users.verdicts import (
    attribute,
    bits_needed,
    combine,
    family_p_value,
    match_p_value,
    matching_bits,
)


@pytest.mark.parametrize(("bits", "expected"), [(32, (26, 30, 32)), (64, (45, 51, 56)), (128, (82, 92, 98))])
def test_bits_needed_for_one_user(bits, expected):
    assert tuple(bits_needed(bits, rate) for rate in (1e-3, 1e-6, 1e-9)) == expected


@pytest.mark.parametrize(("matching", "bits"), [(0, 8), (5, 8), (8, 8), (30, 32), (64, 64)])
def test_p_values_are_binomial_tails(matching, bits):
    expected = sum(comb(bits, k) for k in range(matching, bits + 1)) / 2**bits
    assert match_p_value(matching, bits) == pytest.approx(expected, rel=1e-12)


def test_more_users_need_more_bits():
    assert bits_needed(32, 1e-3, users=1000) == bits_needed(32, 1e-6)
    assert bits_needed(8, 1e-6) is None
    assert family_p_value(0.3, 10) == 1.0
    with pytest.raises(ValueError, match="found 9 matching of 8 bits"):
        match_p_value(9, 8)
    with pytest.raises(ValueError, match="false-positive rate 1"):
        bits_needed(8, 1.0)


def test_the_right_user_is_named_and_nobody_for_chance():
    keys = seeded_keys(50, 64, seed=0)
    names = [f"user{i}" for i in range(50)]
    bits = keys[7].clone()
    bits[:5] ^= True
    verdict = attribute(bits, names, keys)
    assert (verdict.user, verdict.matching_bits, verdict.bits) == ("user7", 59, 64)
    assert verdict.family_p_value == pytest.approx(50 * verdict.p_value)
    assert verdict.family_p_value < 1e-6
    chance = attribute(seeded_keys(1, 64, seed=9)[0], names, keys)
    assert chance.user is None
    assert chance.best_user is not None
    assert attribute(bits, [], keys[:0]).best_user is None
    with pytest.raises(ValueError, match="found 64 bits and keys"):
        attribute(bits, names, keys[:, :32])


def test_a_tie_gives_no_verdict():
    keys = torch.zeros(2, 64, dtype=torch.bool)
    keys[0, 0] = keys[1, 1] = True
    verdict = attribute(torch.zeros(64, dtype=torch.bool), ["a", "b"], keys)
    assert verdict.family_p_value < 1e-6
    assert verdict.user is None


def test_the_false_positive_rate_holds_for_a_biased_decoder():
    """A decoder that always answers nearly the same bits is wrongly convinced no more often than stated."""
    rate, trials = 0.05, 4000
    answer = torch.ones(32, dtype=torch.bool)
    answer[::5] = False
    named = 0
    for trial in range(trials):
        keys = seeded_keys(5, 32, seed=trial)
        named += attribute(answer, list("abcde"), keys, rate).user is not None
    assert named / trials <= rate + 3 * (rate / trials) ** 0.5
    assert named > 0


def test_images_combine_into_one_estimate():
    generator = torch.Generator().manual_seed(0)
    key = seeded_keys(1, 64, seed=3)[0]
    signs = key.float() * 2 - 1
    logits = signs + 2.0 * torch.randn(12, 64, generator=generator)
    alone = ((logits > 0) == key).float().mean()
    together = (combine(logits) == key).float().mean()
    assert float(together) > float(alone) + 0.1


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that an operation made, in bytes; views of the input are not made."""

    def __init__(self, given):
        super().__init__()
        self.given, self.bytes = given.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() != self.given:
                self.bytes = max(self.bytes, tensor.nbytes)
        return made


def test_a_large_registry_fits_into_memory():
    n = 200_000
    packed = np.random.default_rng(0).integers(0, 256, size=(n, 8), dtype=np.uint8)
    keys = torch.from_numpy(np.unpackbits(packed, axis=1).astype(bool))
    bits = keys[123_456].clone()
    bits[[3, 60]] ^= True
    names = [f"user{i}" for i in range(n)]
    with LargestTensor(keys) as largest:
        verdict = attribute(bits, names, keys)
    assert (verdict.user, verdict.matching_bits) == ("user123456", 62)
    assert 0 < largest.bytes < 5e6  # as floats, the keys alone would be 51 MB
    of_bytes = np.array([i.bit_count() for i in range(256)])
    differing = of_bytes[packed ^ np.packbits(bits.numpy())].sum(axis=1)
    assert np.array_equal(matching_bits(bits, keys).numpy(), 64 - differing)
