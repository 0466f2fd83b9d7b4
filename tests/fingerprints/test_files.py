"""Fingerprint and registry on disk: round trip, permissions, refusals; keys never leak into messages."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_modules.fingerprints.fingerprint import (
    Fingerprint,
    FingerprintError,
    make_fingerprint,
    read_fingerprint,
    write_fingerprint,
)
from lightning_modules.fingerprints.layouts import place_key
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, read_registry, write_registry
from lightning_modules.fingerprints.users.keys import (
    distances,
    key_from_text,
    key_to_text,
    new_key,
    pack_key,
    pack_keys,
    random_key,
    unpack_key,
    unpack_keys,
)


@pytest.fixture
def fingerprint() -> Fingerprint:
    torch.manual_seed(0)
    latents = torch.randn(200, 16)
    placed = place_key(lambda: latents.split(50), 16, 4, -4)
    return make_fingerprint(placed, 1.5, -4, "flat", "abc123", "g.pt", noise="fixed(7)", centred=True)


def test_a_fingerprint_comes_back_as_it_was(fingerprint, tmp_path):
    path = tmp_path / "f.safetensors"
    write_fingerprint(fingerprint, path)
    back = read_fingerprint(path, generator="abc123")
    for name, value in vars(fingerprint).items():
        found = getattr(back, name)
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value
    latents, keys = torch.randn(3, 16), torch.rand(3, 4) > 0.5
    assert torch.equal(back.embed(latents, keys), fingerprint.embed(latents, keys))


def test_another_generator_is_refused_by_name(fingerprint, tmp_path):
    path = tmp_path / "f.safetensors"
    write_fingerprint(fingerprint, path)
    with pytest.raises(
        FingerprintError, match=r"found a fingerprint of generator g\.pt \(abc123\), expected .*\(other"
    ):
        read_fingerprint(path, generator="other")


def test_damaged_fingerprints_are_refused(fingerprint, tmp_path):
    path = tmp_path / "f.safetensors"
    with pytest.raises(FingerprintError, match="found no file"):
        read_fingerprint(path)
    write_fingerprint(fingerprint, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FingerprintError, match="truncated or damaged"):
        read_fingerprint(path)
    path.write_bytes(whole)
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(FingerprintError, match="no fingerprint"):
        read_fingerprint(path)

    def rewritten(changes, **manifest):
        write_fingerprint(fingerprint, path)
        plain = {name: value for name, value in vars(fingerprint).items() if not isinstance(value, torch.Tensor)}
        about = {"format": "manifold-fingerprints fingerprint", "version": 3, **plain, **manifest}
        save_file({**load_file(path), **changes}, path, metadata={"manifest": json.dumps(about)})

    rewritten({}, version=4)
    with pytest.raises(FingerprintError, match="found format version 4, expected 3"):
        read_fingerprint(path)
    rewritten({}, sigma="strong")
    with pytest.raises(FingerprintError, match="found no sigma"):
        read_fingerprint(path)
    rewritten({"mean": torch.zeros(3)})
    with pytest.raises(FingerprintError, match="shapes that do not go together"):
        read_fingerprint(path)
    rewritten({"key_axes": torch.ones(1, 4, 16)})
    with pytest.raises(FingerprintError, match="not orthonormal"):
        read_fingerprint(path)
    with pytest.raises(FingerprintError, match=r"ends in \.safetensors"):
        write_fingerprint(fingerprint, tmp_path / "f.pt")


def test_a_registry_is_its_owners_alone(tmp_path):
    registry = KeyRegistry(32)
    registry.create("alice", minimum_distance=8)
    registry.add("bob", "0f" * 4)
    path = tmp_path / "users.json"
    before = os.umask(0)
    try:
        write_registry(registry, path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    back = read_registry(path)
    assert back.names == ["alice", "bob"]
    assert torch.equal(back.keys, registry.keys)
    path.chmod(0o644)
    with pytest.raises(FingerprintError, match="chmod 600"):
        read_registry(path)


def test_keys_are_not_printed(tmp_path):
    registry = KeyRegistry(32)
    registry.add("bob", "deadbeef")
    assert "deadbeef" not in repr(registry)
    assert "True" not in repr(registry)
    with pytest.raises(FingerprintError) as caught:
        registry.add("eve", "deadbee")
    assert "deadbee" not in str(caught.value)
    with pytest.raises(FingerprintError, match="found the key of user 'bob'") as caught:
        registry.add("eve", "deadbeef")
    assert "deadbeef" not in str(caught.value)


def test_users_are_not_confused():
    registry = KeyRegistry(16)
    registry.create("alice")
    alice = registry.key_of("alice").clone()
    with pytest.raises(FingerprintError, match="registered already"):
        registry.create("alice")
    assert torch.equal(registry.key_of("alice"), alice)
    with pytest.raises(FingerprintError, match=r"found no user 'bob' among 1 \(alice\)"):
        registry.key_of("bob")
    with pytest.raises(FingerprintError, match="without spaces"):
        registry.create(" carol")
    for i in range(6):
        registry.create(f"user{i}", minimum_distance=5)
    between = (registry.keys[:, None] != registry.keys).sum(dim=2)
    assert int((between + 99 * torch.eye(7, dtype=torch.long)).min()) >= 5


def test_a_distance_that_cannot_be_kept_is_refused():
    with pytest.raises(ValueError, match="found no key of 3 bits at distance 2 from 8 others"):
        new_key(set(), np.arange(8, dtype=np.uint8)[:, None] << 5, 3, 2)
    with pytest.raises(ValueError, match="at distance 1 from 0 others"):
        new_key({bytes([key << 5]) for key in range(8)}, np.zeros((0, 1), dtype=np.uint8), 3)


def test_damaged_registries_are_refused(tmp_path):
    path = tmp_path / "users.json"
    with pytest.raises(FingerprintError, match="register a user first"):
        read_registry(path)
    registry = KeyRegistry(8)
    registry.create("alice")
    write_registry(registry, path)
    whole = path.read_text()
    for broken in (whole[:20], "{}", '{"format": 1}', whole.replace('"alice": "', '"alice": "zz')):
        path.write_text(broken)
        with pytest.raises(FingerprintError):
            read_registry(path)


@pytest.mark.parametrize("bits", [1, 7, 8, 32, 33, 100])
def test_keys_go_through_text(bits):
    key = unpack_key(random_key(bits), bits)
    assert torch.equal(key_from_text(key_to_text(key), bits), key)
    if bits > 2:
        assert torch.equal(key_from_text("".join("1" if b else "0" for b in key), bits), key)
    with pytest.raises(ValueError, match="expected a key of"):
        key_from_text(random_key(bits + 8).hex(), bits)


@pytest.mark.parametrize("bits", [1, 13, 64])
def test_packed_keys_are_those_of_their_text(bits):
    keys = torch.rand(5, bits, generator=torch.Generator().manual_seed(0)) > 0.5
    table = pack_keys(keys)
    assert torch.equal(unpack_keys(table, bits), keys)
    assert [row.tobytes().hex() for row in table] == [key_to_text(key) for key in keys]
    for key in (random_key(bits) for _ in range(20)):
        assert pack_key(unpack_key(key, bits)) == key  # nothing in the padding


def test_bits_are_fair_and_hamming_distances_exact():
    keys = torch.stack([unpack_key(random_key(64), 64) for _ in range(400)])
    assert abs(float(keys.float().mean()) - 0.5) < 4 * 0.5 / (400 * 64) ** 0.5
    expected = (keys[:, None] != keys[None, :50]).sum(dim=2)
    table = pack_keys(keys)
    found = np.stack([distances(key.tobytes(), table) for key in table[:50]], axis=1)
    assert np.array_equal(found, expected.numpy())
