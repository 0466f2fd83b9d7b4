"""Keys that images without them speak for are refused, by the rule of the verdict and by no other."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from small_registry import private, refused, told, write_small_fingerprint

from lightning_modules.cli.users import users as main
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.fingerprint import read_fingerprint
from lightning_modules.fingerprints.unmarked_bank import FILE_NAME, UnmarkedBank, read_bank, write_bank
from lightning_modules.fingerprints.users.key_checks import RATE, KeyCheck, find_bank
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, read_registry, write_registry
from lightning_modules.fingerprints.users.keys import key_to_text, pack_keys, unpack_keys
from lightning_modules.fingerprints.users.verdicts import attribute

TRAINED = Path(__file__).parents[3] / "lightning_modules" / "fingerprints" / "trained"


def bank_of(log_odds, fingerprint="f") -> UnmarkedBank:
    names = tuple(f"image {number}" for number in range(len(log_odds)))
    return UnmarkedBank(fingerprint, "d", names, 0, log_odds, torch.zeros(1), torch.eye(1), 1.0, 1.0, 0.0, 4)


def some_odds(n, bits, seed=0):
    generator = torch.Generator().manual_seed(seed)
    odds = (40 * torch.randn(n, bits, generator=generator)).clamp(-127, 127).round()
    odds[:, 0] = 127.0
    odds[0, 1:4] = 0.0  # an image may say nothing of a bit
    return odds.to(torch.int8)


@pytest.fixture
def stylegan2():
    return read_bank(TRAINED / "stylegan2" / FILE_NAME)


@pytest.mark.parametrize(("bits", "users", "rate"), [(12, 1, 0.01), (12, 3, 0.05), (20, 2, 1e-4), (33, 5, 1e-3)])
def test_a_key_is_refused_where_the_verdict_would_name_its_holder(bits, users, rate):
    """`attribute` decides on each pair by itself; keys near the images are among the random ones."""
    odds = some_odds(6, bits)
    keys = torch.cat([seeded_keys(20, bits, seed=5), odds > 0, odds > 10])
    flipped = (odds > 0).clone()
    flipped[:, 5] ^= True
    keys = torch.cat([keys, flipped])
    table = pack_keys(keys[(keys.sum(dim=1) % bits) > 0])
    expected = set()
    for place, key in enumerate(table):
        # one key among so many: the others are those of nobody near
        chances = [attribute(row.float(), ["holder"], key[None], rate).p_value * users for row in odds]
        if min(chances) <= rate:
            expected.add(place)
    found = KeyCheck(bits, bank_of(odds), users, rate).refused(table)
    assert 0 < len(expected) < len(table)
    assert {near.key for near in found} == set(expected)
    for near in found:  # the image named is one that would be attributed
        image = odds[int(near.image.split()[1])].float()
        assert near.p_value == attribute(image, ["holder"], table[near.key][None], rate).p_value <= rate / users


def test_keys_of_zeros_and_of_ones_alone_are_refused_without_a_bank():
    keys = torch.stack([torch.zeros(10), torch.arange(10) % 2, torch.ones(10)]).bool()
    assert [near.key for near in KeyCheck(10, None, 1).refused(pack_keys(keys))] == [0, 2]
    assert KeyCheck(7, None, 1).refused(pack_keys(keys[:, :7])) == []  # of so few there would be too few left


def test_draws_are_uniform_over_the_keys_that_are_not_refused():
    bits, rate = 10, 0.02
    check = KeyCheck(bits, bank_of(some_odds(4, bits)), 1, rate)
    everything = torch.tensor([[int(bit) for bit in f"{number:010b}"] for number in range(2**bits)]).bool()
    out = {near.key for near in check.refused(pack_keys(everything))}
    assert 2 + 4 <= len(out) <= 2 + 4 * rate * 2**bits  # by Boole's inequality, and the two constant ones
    draws = check.draws(3000)
    drawn = np.frombuffer(b"".join(next(draws) for _ in range(40_000)), dtype=np.uint8).reshape(-1, 2)
    numbers = unpack_keys(drawn, bits).long() @ (2 ** torch.arange(bits - 1, -1, -1))
    counts = torch.bincount(numbers, minlength=2**bits).numpy()
    assert counts[sorted(out)].sum() == 0
    kept = np.delete(counts, sorted(out))
    assert chisquare(kept).pvalue > 1e-6


def test_few_random_keys_are_refused_and_among_many_users_none(stylegan2):
    table = pack_keys(seeded_keys(20_000, 32, seed=9))
    found = KeyCheck(32, stylegan2, 1).refused(table)
    assert 0 < len(found) <= 3 * len(stylegan2.names) * RATE * 20_000
    assert KeyCheck(32, stylegan2, 10_000).refused(table) == []  # not even equal bits name one of so many


def test_what_flat_greys_decode_to_is_no_key(stylegan2):
    assert stylegan2.names[127] == "flat grey 127"
    keys = pack_keys(stylegan2.log_odds[:256] > 0)
    found = KeyCheck(32, stylegan2, 1).refused(keys)
    assert [near.key for near in found] == list(range(256))
    assert max(near.p_value for near in found) < 1e-8


def test_many_keys_are_checked_in_seconds(stylegan2):
    """Twenty million pairs of key and image: an exact p-value of each would take hours."""
    table = pack_keys(seeded_keys(20_000, 32, seed=10))
    start = time.process_time()
    KeyCheck(32, stylegan2, 4000).refused(table)
    assert time.process_time() - start < 4.0


def test_created_keys_pass_and_chosen_ones_are_refused_by_the_command(tmp_path, stylegan2, capsys):
    users, home = tmp_path / "users.json", "stylegan2"
    main(["create", str(users), *(f"user{i}" for i in range(50)), "--fingerprint", home])
    created = capsys.readouterr()
    assert FILE_NAME not in created.out + created.err
    registry = read_registry(users)
    assert KeyCheck(32, stylegan2, 50).refused(registry.packed) == []
    before = users.read_bytes()
    flat = key_to_text(stylegan2.log_odds[127] > 0)
    lines = [f"good,{key_to_text(seeded_keys(1, 32, seed=3)[0])}", f"eve,{flat}", "mallory,00000000"]
    table = private(tmp_path / "keys.csv", "\n".join(lines))
    message = refused(capsys, "import", str(users), str(table))
    assert "found 2 keys that decoded images without any key come near, so nobody was registered" in message
    assert "line 2: flat " in message
    assert "would be named as 'eve' (p-value " in message
    assert "line 3: the key of user 'mallory' is all zeros or all ones" in message
    assert flat not in message
    assert users.read_bytes() == before
    main(["import", str(users), str(private(tmp_path / "keys.csv", lines[0]))])
    assert read_registry(users).names[-1] == "good"


def test_keys_that_are_registered_stay_with_a_warning(tmp_path, stylegan2, capsys):
    flat = key_to_text(stylegan2.log_odds[127] > 0)
    for name, key in (("eve", flat), ("bob", key_to_text(seeded_keys(1, 32, seed=5)[0]))):
        registry = KeyRegistry(32, {}, stylegan2.fingerprint, "gan-stylegan2")
        registry.add(name, key)
        write_registry(registry, tmp_path / f"{name}.json")
    main(["merge", str(tmp_path / "eve.json"), str(tmp_path / "bob.json"), "--out", str(tmp_path / "all.json")])
    merged = capsys.readouterr()
    assert "found 1 registered users with keys that images without them speak for: eve" in merged.err
    assert "flat" not in merged.err  # whoever decodes the image named would have the key
    assert read_registry(tmp_path / "all.json").names == ["eve", "bob"]
    main(["import", str(tmp_path / "eve.json"), str(private(tmp_path / "k.csv", "carol,0123abcd"))])
    assert "speak for: eve" in capsys.readouterr().err
    assert read_registry(tmp_path / "eve.json").names == ["eve", "carol"]


def test_without_a_bank_it_is_told_once_how_one_is_made(tmp_path, fingerprint, capsys):
    users = tmp_path / "users.json"
    main(["create", str(users), "alice", "--fingerprint", fingerprint])
    created = capsys.readouterr()
    assert f"found no {FILE_NAME} beside the fingerprint" in created.out
    assert "evaluate.py users bank RUN" in created.out
    assert told(created.err) == ""
    main(["create", str(users), "bob"])
    assert FILE_NAME not in capsys.readouterr().out
    assert "all zeros or all ones" in refused(
        capsys, "import", str(users), str(private(tmp_path / "k.csv", "eve,ffff"))
    )


def test_a_registry_finds_the_bank_of_its_fingerprint_again(tmp_path, capsys):
    home = tmp_path / "run"
    home.mkdir()
    own = read_fingerprint(write_small_fingerprint(home / "fingerprint.safetensors", 24)).id
    users = tmp_path / "users.json"
    main(["create", str(users), "alice", "--fingerprint", str(home)])
    odds = some_odds(3, 24)
    write_bank(bank_of(odds, own), home / FILE_NAME)
    key = private(tmp_path / "k.csv", f"eve,{key_to_text(odds[1] > 0)}")
    assert "image 1 would be named as 'eve'" in refused(capsys, "import", str(users), str(key))
    write_bank(bank_of(odds, "another"), home / FILE_NAME)
    assert "found a bank for the fingerprint another" in refused(
        capsys, "create", str(users), "bob", "--fingerprint", str(home)
    )
    main(["create", str(users), "bob"])  # nobody named that folder, and what it holds by now is another run's
    assert read_registry(users).names == ["alice", "bob"]


def test_banks_that_ship_are_found_by_their_fingerprint(stylegan2):
    found = find_bank(None, stylegan2.fingerprint)
    assert found is not None
    assert torch.equal(found.log_odds, stylegan2.log_odds)
    assert find_bank("", "unknown") is None


def test_the_share_that_is_refused_is_bounded(stylegan2):
    """The factor by which p-values of redrawn keys may grow is 1 / (1 - q)."""
    bound = len(stylegan2.names) * RATE + 2 / 2**32
    assert math.isclose(1 / (1 - bound), 1.001, abs_tol=1e-4)
