"""Options of `predict` against the checkpoint: every mistake is found before anything is built."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.cli.prediction_plan import ATTRIBUTOR_OPTIONS, FINGERPRINT_OPTIONS, plan_prediction
from lightning_modules.fingerprints.fingerprint import make_fingerprint
from lightning_modules.fingerprints.layouts import place_key
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, write_registry

BITS = 16


def small_fingerprint():
    latents = torch.randn(100, 40, generator=torch.Generator().manual_seed(0))
    return make_fingerprint(place_key(lambda: latents.split(50), 40, BITS, -BITS), 1.5, -BITS, "flat", "abc", "g.pt")


def saved(folder, **content):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def fingerprint(tmp_path):
    return saved(tmp_path / "f", fingerprint=vars(small_fingerprint()), image_size=[32, 48])


@pytest.fixture
def attributor(tmp_path):
    return saved(tmp_path / "a", attributor={"image_size": [64, 64]})


@pytest.fixture
def users(tmp_path):
    return registered(tmp_path / "users.json", BITS)


def registered(path, bits, names=("alice", "bob"), fingerprint=""):
    registry = KeyRegistry(bits, fingerprint=fingerprint, generator_name="h.pt")
    for name in names:
        registry.create(name)
    write_registry(registry, path)
    return str(path)


def plan(checkpoint, **options):
    return plan_prediction(checkpoint, {"fresh": False} | FINGERPRINT_OPTIONS | ATTRIBUTOR_OPTIONS | options)


def test_the_checkpoint_decides_what_predict_does(fingerprint, attributor, users):
    found = plan(fingerprint, registry=users, combine=True)
    assert (found.kind, found.image_size, found.combine, found.show_bits) == ("fingerprint", [32, 48], True, False)
    assert found.registry.names == ["alice", "bob"]
    other = plan(attributor)
    assert (other.kind, other.image_size, other.registry) == ("attributor", [64, 64], None)


def test_a_fingerprint_needs_a_registry_and_says_how_to_make_one(fingerprint, tmp_path):
    with pytest.raises(ValueError, match=r"found no --registry.*users create users\.json NAME --fingerprint") as error:
        plan(fingerprint)
    assert str(tmp_path / "f" / "fingerprint.safetensors") in str(error.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [("registry", "users.json"), ("combine", True), ("show_bits", True), ("false_positive_rate", 1e-3)],
)
def test_an_attributor_knows_no_users(attributor, option, value):
    with pytest.raises(ValueError, match=f"found --{option} with the checkpoint of an attributor"):
        plan(attributor, **{option: value})


def test_keys_of_another_length_are_refused(fingerprint, tmp_path):
    other = registered(tmp_path / "other.json", 24)
    with pytest.raises(ValueError, match=r"other\.json: found keys of 24 bits, expected 16"):
        plan(fingerprint, registry=other)


def test_keys_for_another_fingerprint_are_refused(fingerprint, tmp_path):
    own = registered(tmp_path / "own.json", BITS, fingerprint=small_fingerprint().id)
    assert plan(fingerprint, registry=own).registry.names == ["alice", "bob"]
    other = registered(tmp_path / "other.json", BITS, fingerprint="0" * 64)
    with pytest.raises(ValueError, match=r"other\.json: found keys for the fingerprint 0{12} of h\.pt, expected"):
        plan(fingerprint, registry=other)


def test_a_registry_that_is_not_there_or_empty_is_refused(fingerprint, tmp_path):
    with pytest.raises(ValueError, match=r"found no registry .*nowhere\.json"):
        plan(fingerprint, registry=str(tmp_path / "nowhere.json"))
    with pytest.raises(ValueError, match=r"empty\.json: found no user"):
        plan(fingerprint, registry=registered(tmp_path / "empty.json", BITS, ()))


@pytest.mark.parametrize("rate", [0.0, 1.0, -1e-6, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(fingerprint, users, rate):
    with pytest.raises(ValueError, match=r"--false_positive_rate .*, expected a number between 0 and 1"):
        plan(fingerprint, registry=users, false_positive_rate=rate)


def test_keys_too_short_for_the_rate_are_told_with_the_rate_that_they_allow(fingerprint, users):
    strict = plan(fingerprint, registry=users, false_positive_rate=1e-6)
    told = strict.cannot_name()
    assert "16 bits, 2 users" in told
    allowed = float(told.split()[-1])
    assert 2 * 0.5**16 <= allowed < 1.1 * 2 * 0.5**16
    assert plan(fingerprint, registry=users, false_positive_rate=allowed).cannot_name() is None


def test_a_checkpoint_of_something_else_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"last\.ckpt: found neither an attributor nor a fingerprint"):
        plan(saved(tmp_path, state_dict={}))


@pytest.mark.parametrize("content", [b"", b"\x89PNG no checkpoint", b'{"users": {}}', b"PK\x05\x06" + bytes(18)])
def test_a_file_of_another_kind_is_named(tmp_path, content):
    file = tmp_path / "other.file"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.file: found .*expected a checkpoint of a training"):
        plan(file)
