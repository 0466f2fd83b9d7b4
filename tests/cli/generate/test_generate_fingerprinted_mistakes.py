"""`evaluate.py generate` with a fingerprint refuses what does not go together before any image, and says what to do."""

from __future__ import annotations

import pytest
import torch
from fingerprinted_room import BITS, KEYS, contents, generate, named, write_carrier, write_its_fingerprint, write_room

from lightning_modules.fingerprints.fingerprint import read_fingerprint
from lightning_modules.fingerprints.marked_images import MarkedGenerator
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, write_registry
from lightning_modules.generators import load_generator
from lightning_modules.generators.stylegan2 import StyleGAN2Generator


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return write_room(tmp_path_factory.mktemp("room"))


@pytest.fixture
def known(room):
    return named(room)


def said(capsys, *args):
    """What is said to a mistake."""
    with pytest.raises(SystemExit) as caught:
        generate(*args)
    assert caught.value.code not in (0, None)
    return str(caught.value.code) + capsys.readouterr().err


def test_mistakes_are_said_before_anything_is_written(room, known, tmp_path, capsys):
    out = ("--n", 1, "--out", tmp_path / "images")
    generator, fingerprint, registry = known[:2], known[2:4], known[4:]
    alice = ("--user", "alice")
    nobody = said(capsys, *known, *out)
    assert "found a fingerprint but no user" in nobody
    assert f"give --user NAME; `evaluate.py users list {room / 'users.json'}`" in nobody
    neither = said(capsys, *generator, *fingerprint, "--registry", tmp_path / "no.json", *out)
    assert f"give --user NAME; `evaluate.py users create {tmp_path / 'no.json'} NA" in neither
    near = said(capsys, *known, "--user", "alcie", *out)
    assert "found no user 'alcie' among the 3" in near
    assert "did you mean 'alice'" in near
    cyrillic = said(capsys, *known, "--user", "\u0430lice", *out)  # looks the same; nobody gets another's key by it
    assert r"'\u0430lice'" in cyrillic
    assert "did you mean 'alice'" in cyrillic
    missing = said(capsys, *generator, *fingerprint, *alice, "--registry", tmp_path / "no.json", *out)
    assert f"found no registry {tmp_path / 'no.json'}" in missing
    assert f"evaluate.py users create {tmp_path / 'no.json'} alice --fingerprint {room / 'run'}" in missing
    assert "found `user` or `registry` but no `fingerprint`" in said(capsys, *generator, *registry, *alice, *out)
    empty = said(capsys, *generator, "--fingerprint", tmp_path, *registry, *alice, *out)
    assert f"found no file {tmp_path / 'fingerprint.safetensors'}, expected a fingerprint" in empty
    gone = said(capsys, *generator, "--fingerprint", tmp_path / "gone", *registry, *alice, *out)
    assert f"found no file {tmp_path / 'gone'}, expected a fingerprint" in gone
    near = said(capsys, *generator, "--fingerprint", "ldm46", *registry, *alice, *out)
    assert "found no file ldm46" in near
    assert "did you mean ldm64" in near
    assert "found n=0 and processes=1" in said(capsys, *known, *alice, "--n", 0, "--out", tmp_path / "images")
    assert "found both `generator`" in said(capsys, *known, *alice, "--sources", "[gan-dcgan]", *out)
    assert "found both `fingerprint`" in said(capsys, *fingerprint, *alice, "--sources", "[gan-dcgan]", *out)
    assert "unknown key 'usr': did you mean user" in said(capsys, *known, "--usr", "alice", *out)
    assert not (tmp_path / "images").exists()


def test_a_generator_that_the_fingerprint_does_not_belong_to_is_refused(known, tmp_path, capsys):
    write_carrier(tmp_path / "other.safetensors", seed=1)
    given = (*known[2:], "--user", "alice", "--n", 1, "--out", tmp_path / "images")
    other = said(capsys, "--generator", tmp_path / "other.safetensors", *given)
    assert "found a fingerprint of generator" in other
    assert "keys can only be read with the generator that carries them" in other
    assert not (tmp_path / "images").exists()


def test_a_fingerprint_whose_generator_is_gone_says_that_it_named_it(room, tmp_path, capsys):
    (tmp_path / "g.safetensors").write_bytes((room / "g.safetensors").read_bytes())
    write_its_fingerprint(tmp_path / "g.safetensors", tmp_path / "f" / "fingerprint.safetensors")
    (tmp_path / "g.safetensors").unlink()
    given = ("--fingerprint", tmp_path / "f", "--registry", room / "users.json", "--user", "alice", "--n", 1)
    message = said(capsys, *given, "--out", tmp_path / "images")
    assert "(the generator that the fingerprint names; --generator names another)" in message


def test_registries_of_other_keys_or_open_to_others_are_refused(room, known, tmp_path, capsys):
    short = KeyRegistry(8)
    short.add("alice", "a5")
    write_registry(short, tmp_path / "short.json")
    given = (*known[:4], "--user", "alice", "--n", 1, "--out", tmp_path / "images")
    assert "found keys of 8 bits, expected 32" in said(capsys, *given, "--registry", tmp_path / "short.json")
    foreign = KeyRegistry(BITS, fingerprint="0123456789abcdef", generator_name="faces.pt")
    foreign.add("alice", KEYS["alice"])
    write_registry(foreign, tmp_path / "foreign.json")
    message = said(capsys, *given, "--registry", tmp_path / "foreign.json")
    assert f"{tmp_path / 'foreign.json'}: found keys for the fingerprint 0123456789ab of faces.pt" in message
    assert KEYS["alice"] not in message
    (tmp_path / "open.json").write_bytes((room / "users.json").read_bytes())
    (tmp_path / "open.json").chmod(0o644)
    message = said(capsys, *given, "--registry", tmp_path / "open.json")
    assert "others can read these keys" in message
    assert KEYS["alice"] not in message
    assert not (tmp_path / "images").exists()


def test_a_folder_goes_on_with_the_same_key_and_takes_no_other(room, known, tmp_path, capsys):
    given = (*known[:4], "--out", tmp_path / "a", "--n")
    alice = ("--user", "alice", *known[4:])
    generate(*given, 1, *alice)
    generate(*given, 3, *alice)
    assert contents(tmp_path / "a") == contents(generate(*given, 3, *alice, "--out", tmp_path / "whole"))
    before = contents(tmp_path / "a")
    bob = said(capsys, *given, 4, "--user", "bob", *known[4:])
    assert "found images made otherwise: fingerprint's user 'alice', expected 'bob'" in bob
    plain = said(capsys, *known[:2], *given[4:], 4)
    assert "found images made otherwise: fingerprint's bits 32, expected None" in plain
    replaced = KeyRegistry(BITS)
    replaced.add("alice", KEYS["bob"])
    write_registry(replaced, tmp_path / "users.json")
    other = said(capsys, *given, 4, "--user", "alice", "--registry", tmp_path / "users.json")
    assert "found 0000000.png of other pixels than the same seed and user give here" in other
    assert contents(tmp_path / "a") == before


def test_keys_and_generators_that_do_not_fit_a_fingerprint_are_refused(room):
    fingerprint = read_fingerprint(room / "run" / "fingerprint.safetensors")
    generator = load_generator(room / "g.safetensors")
    for key in (torch.ones(BITS - 1, dtype=torch.bool), torch.ones(BITS)):
        with pytest.raises(ValueError, match="expected 32 bits as bool"):
            MarkedGenerator(generator, fingerprint, key, "alice")
    small = StyleGAN2Generator(16, 8, 8, 2, [8, 8, 8])
    with pytest.raises(ValueError, match="found a generator of latents of length 8, expected 40"):
        MarkedGenerator(small, fingerprint, torch.ones(BITS, dtype=torch.bool), "alice")


def test_noise_that_the_fingerprint_was_not_made_for_is_refused(known, tmp_path, capsys):
    given = (*known, "--user", "alice", "--n", 1, "--options.noise", "fixed(3)", "--out", tmp_path / "images")
    assert "found a generator with noise 'fixed(3)', expected 'fixed(0)' as in the fingerprint" in said(capsys, *given)
    assert not (tmp_path / "images").exists()
