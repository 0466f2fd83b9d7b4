"""Names of users: one Unicode form, and no two that can be taken for each other."""

from __future__ import annotations

import json
import unicodedata
import warnings

import pytest
import torch

from lightning_modules.fingerprints.fingerprint import FingerprintError
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, read_registry, write_registry
from lightning_modules.fingerprints.users.names import _CAPITAL, _SMALL, NameIndex, is_user_id, looks_of, same_name

ONE_NAME = [
    ("alice", "Alice"),
    ("Jos\u00e9", "Jose\u0301"),  # accents in one character and in two
    ("alice", "\uff41lice"),  # full width
    ("fine", "\ufb01ne"),  # ligature
    ("Stra\u00dfe", "STRASSE"),
    ("\u039f\u03b4\u03c5\u03c3\u03c3\u03b5\u03cd\u03c2", "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u038e\u03a3"),  # final s
    ("ix", "\u0130x"),  # dotted capital I
    ("anna maria", "anna  maria"),
    ("anna maria", "anna\u2800maria"),  # a blank that counts as printable
    ("annamaria", "anna\u3164maria"),  # a filler that counts as printable
    ("\u2764", "\u2764\ufe0f"),  # variation selector
]
LOOK_ALIKES = [
    ("alice", "\u0430lice"),  # Cyrillic a
    ("Alice", "\u0391lice"),  # Greek Alpha
    ("bob", "\u0412\u041e\u0412"),  # as capitals
    ("BOBA", "\u0412\u043e\u0432\u0430"),  # Vova, whose capitals are BOBA
    ("Nick", "\u039dick"),  # Greek Nu, whose small letter is a v
    ("vick", "\u039dick"),
    ("ann", "\u0391\u03b7\u03b7"),
    ("ahh", "\u0391\u03b7\u03b7"),  # its capitals
    ("no\u00ebl", "n\u043e\u0451l"),  # under an accent
    ("ix", "\u0131x"),  # dotless i
    ("\u03bf", "\u043e"),  # Greek and Cyrillic
]
APART = [
    ("ann", "ahh"),
    ("alice", "alic"),
    ("user1", "userl"),
    ("jose", "jos\u00e9"),
    ("anna", "\u0430\u043d\u043d\u0430"),
    ("a b", "ab"),
]


@pytest.mark.parametrize(("one", "other"), ONE_NAME)
def test_ways_of_writing_one_name(one, other):
    assert same_name(one) == same_name(other)
    for first, second in ((one, other), (other, one)):
        registry = KeyRegistry(16)
        registry.add(first, "1234")
        with pytest.raises(FingerprintError, match=r"can be taken for|registered already"):
            registry.add(second, "5678")
        assert registry.find(second) == unicodedata.normalize("NFC", first)
        assert torch.equal(registry.key_of(second), registry.key_of(first))


def test_an_accent_in_two_characters_is_kept_as_one():
    registry = KeyRegistry(16)
    registry.add("Jose\u0301", "1234")
    registry.create("Zoe\u0308")
    assert registry.names == ["Jos\u00e9", "Zo\u00eb"]
    with pytest.raises(FingerprintError, match="registered already"):
        registry.create("Jose\u0301")


@pytest.mark.parametrize(("one", "other"), LOOK_ALIKES)
def test_look_alikes_are_not_both_registered_and_not_one_user(one, other):
    for first, second in ((one, other), (other, one)):
        registry = KeyRegistry(16)
        registry.add(first, "1234")
        with pytest.raises(FingerprintError, match="can be taken for the registered") as caught:
            registry.create(second)
        assert first.isascii() or ascii(unicodedata.normalize("NFC", first)) in str(caught.value)
        assert registry.find(second) is None  # images never get another user's key by a letter that looks like his
        with pytest.raises(FingerprintError, match="found no user"):
            registry.key_of(second)


@pytest.mark.parametrize(("one", "other"), APART)
def test_names_that_differ_are_registered_side_by_side(one, other):
    registry = KeyRegistry(16)
    registry.add(one, "1234")
    registry.add(other, "5678")
    assert (registry.find(one), registry.find(other)) == (one, other)


def test_names_with_nothing_to_see_are_none():
    for name in ("", " ", "\u3164", "\u2800", "\ufe0f", "a\u200bb", "a\u202eb", "a\u00a0b", "two\nlines", " alice"):
        assert not is_user_id(name), ascii(name)
    assert is_user_id("Zo\u00eb Smith-\u0416")


def test_the_table_of_letters_says_what_unicode_calls_them():
    """Each stands for one Latin letter, is of another alphabet or of phonetics, and survives normalisation."""
    for table, case in ((_SMALL, str.islower), (_CAPITAL, str.isupper)):
        taken = "".join(table.values())
        assert len(set(taken)) == len(taken)
        for latin, others in table.items():
            assert latin.isascii()
            assert case(latin)
            for other in others:
                assert not other.isascii()
                assert unicodedata.normalize("NFKD", other) == other
                assert unicodedata.category(other) in ("Ll", "Lu")
                assert unicodedata.name(other).split()[0] in ("CYRILLIC", "GREEK", "LATIN")
                assert looks_of(other) & looks_of(latin)


def test_an_index_finds_names_among_many():
    index = NameIndex()
    for number in range(20_000):
        index.add(f"user{number}")
    assert len(index) == 20_000
    assert index.same("USER777") == "user777"
    assert index.alike("\u0455er") is None


def old_registry(path, users):
    registry = KeyRegistry(16)
    registry.add("x", "9999")
    write_registry(registry, path)
    content = json.loads(path.read_text())
    del content["checksum"]
    path.write_text(json.dumps({**content, "version": 2, "users": users}))
    return path


def test_an_old_registry_with_look_alikes_opens_with_a_warning(tmp_path):
    path = old_registry(tmp_path / "users.json", {"alice": "1234", "Alice": "5678", "Jose\u0301": "4321"})
    with pytest.warns(UserWarning, match=r"found 1 users who can be taken for another: 'alice' and 'Alice'"):
        registry = read_registry(path)
    assert registry.names == ["alice", "Alice", "Jose\u0301"]  # as they stand
    assert (registry.find("alice"), registry.find("Alice")) == ("alice", "Alice")
    assert registry.find("ALICE") is None  # either could be meant
    assert registry.find("Jos\u00e9") == "Jose\u0301"
    with pytest.raises(FingerprintError, match="can be taken for"):
        registry.create("aLICE")


def test_a_sound_registry_is_read_without_a_warning(tmp_path):
    registry = KeyRegistry(16)
    registry.create("alice")
    write_registry(registry, tmp_path / "users.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_registry(tmp_path / "users.json")
