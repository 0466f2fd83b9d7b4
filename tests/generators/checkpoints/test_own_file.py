"""Our own file gives back what was written, and says what is wrong with any other."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightning_modules.common.weights import content_hash
from lightning_modules.generators.checkpoints import own_file
from lightning_modules.generators.checkpoints.own_file import read_manifest, read_own, write_generator
from lightning_modules.generators.checkpoints.stored import CheckpointError, StoredGenerator


@pytest.fixture
def stored():
    torch.manual_seed(0)
    tensors = {
        "weight": torch.randn(3, 4),
        "turned": torch.randn(3, 4).t(),
        "count": torch.tensor(70_000),
        "halves": torch.ones(2, dtype=torch.float16),
        "empty": torch.zeros(0),
    }
    return StoredGenerator(
        "stylegan2", {"image_size": 32, "channels": [4, 4]}, tensors, {"format": "rosinality", "file": "a.pt"}
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def test_everything_comes_back(stored, path):
    manifest = write_generator(stored, path)
    found = read_own(path)
    assert (found.kind, found.arguments, found.origin) == (stored.kind, stored.arguments, stored.origin)
    assert found.tensors.keys() == stored.tensors.keys()
    for name, value in stored.tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value)
    assert manifest == read_manifest(path)
    assert manifest["content"] == content_hash(stored.tensors)
    assert any("5 tensors" in line for line in found.report)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_prefixes_that_all_tensors_share_are_taken_off_and_told(stored, path):
    """As when the state dict of a wrapped generator was written."""
    tensors = {f"module._orig_mod.{name}": value for name, value in stored.tensors.items()}
    write_generator(replace(stored, tensors=tensors), path)
    found = read_own(path)
    assert all(torch.equal(found.tensors[name], value) for name, value in stored.tensors.items())
    assert "prefix module._orig_mod. of all 5 tensors: taken off" in found.report


def test_others_may_read_what_is_no_secret(stored, path):
    write_generator(stored, path)
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_same_generator_gives_the_same_bytes(stored, path, tmp_path):
    write_generator(stored, path)
    write_generator(read_own(path), tmp_path / "b.safetensors")
    assert path.read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_half_precision_is_stored_and_single_read(stored, path):
    write_generator(stored, path, half=True)
    assert load_file(path)["weight"].dtype == torch.float16
    found = read_own(path)
    assert found.tensors["weight"].dtype == torch.float32
    assert torch.equal(found.tensors["weight"], stored.tensors["weight"].half().float())
    assert found.tensors["halves"].dtype == torch.float16  # was in half precision before, and is left so
    assert found.tensors["count"] == 70_000
    stored.tensors["weight"][0, 0] = 1e6
    with pytest.raises(CheckpointError, match="beyond 65504 in weight"):
        write_generator(stored, path, half=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "another format"),
        ({"version": 2}, "found format version 2, expected 1 at most; update this project"),
        ({"arguments": None}, "without arguments"),
        ({"halved": None, "content": 3}, "without halved, content"),
        ({"content": "0" * 64}, "expected 5 with 0000000000000000: the file was changed"),
        ({"tensors": 4}, "found 5 tensors"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(change, message, stored, path):
    manifest = write_generator(stored, path)
    save_file(load_file(path), path, {"manifest": json.dumps(manifest | change)})
    with pytest.raises(CheckpointError, match=message) as caught:
        read_own(path)
    assert "a.safetensors" in str(caught.value)


def test_changed_tensors_are_noticed(stored, path):
    manifest = write_generator(stored, path)
    tensors = load_file(path)
    tensors["weight"][0, 0] += 1e-6
    save_file(tensors, path, {"manifest": json.dumps(manifest)})
    with pytest.raises(CheckpointError, match="the file was changed after it was written"):
        read_own(path)


def test_files_of_others_are_refused(path):
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="found safetensors of 1 tensors without a `manifest`"):
        read_own(path)
    save_file({"weight": torch.ones(2)}, path, {"manifest": "not json"})
    with pytest.raises(CheckpointError, match="no JSON"):
        read_own(path)
    with pytest.raises(CheckpointError, match="found no file"):
        read_own(path.with_name("b.safetensors"))


def test_every_truncation_is_noticed(stored, path):
    write_generator(stored, path)
    whole = path.read_bytes()
    for cut in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:cut])
        message = "a safetensors file that is truncated" if cut else "an empty file"
        with pytest.raises(CheckpointError, match=rf"a\.safetensors: found {message}"):
            read_own(path)


def test_an_interrupted_writing_leaves_the_old_file(stored, path, monkeypatch):
    write_generator(stored, path)
    before = path.read_bytes()

    def failing(tensors, place, metadata):
        place.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(own_file, "save_file", failing)
    with pytest.raises(KeyboardInterrupt):
        write_generator(stored, path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_cannot_be_written_is_refused(stored, path):
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors"):
        write_generator(stored, path.with_suffix(".pt"))
    for value in (torch.ones(1), float("nan"), {1, 2}):
        stored.arguments["image_size"] = value
        with pytest.raises(CheckpointError, match="no JSON"):
            write_generator(stored, path)
    assert not path.exists()


def test_the_hash_is_of_names_types_shapes_and_values():
    one = {"a": torch.arange(4.0), "b": torch.ones(1)}
    assert content_hash(one) == content_hash({"b": torch.ones(1), "a": torch.arange(8.0)[:4]})
    assert content_hash({"a": torch.arange(8.0)[::2]}) == content_hash({"a": torch.tensor([0.0, 2.0, 4.0, 6.0])})
    others = [
        {"a": torch.arange(4.0)},
        {"a": torch.arange(4.0), "c": torch.ones(1)},
        {"a": torch.arange(4.0).view(2, 2), "b": torch.ones(1)},
        {"a": torch.arange(4.0).int(), "b": torch.ones(1)},
        {"a": torch.arange(4.0) + 1e-6, "b": torch.ones(1)},
    ]
    assert len({content_hash(other) for other in [one, *others]}) == 6
