"""A whole file of another kind is named for what it is, never called truncated."""

from __future__ import annotations

import pickle

import pytest
import torch
from PIL import Image

from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.own_file import read_manifest
from lightning_modules.generators.checkpoints.safe_pickle import read_tensor_pickle
from lightning_modules.generators.checkpoints.stored import CheckpointError, file_type


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pt", "hello world, this is no checkpoint\n"),
        ("a.pkl", '{"a": [1, 2]}'),
        ("a.safetensors", "weights: none\n"),
    ],
)
def test_text_is_called_text(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    assert file_type(path) == "text"
    with pytest.raises(CheckpointError, match=f"{name}: found a text file, expected a checkpoint"):
        load_generator(path)


def test_an_image_is_called_an_image(tmp_path):
    path = tmp_path / "a.pt"
    Image.new("RGB", (4, 4)).save(path, format="PNG")
    with pytest.raises(CheckpointError, match="found a PNG image file, expected a checkpoint"):
        load_generator(path)
    with pytest.raises(CheckpointError, match="found a PNG image file, expected a generator's"):
        read_manifest(path)


def test_a_torch_file_under_another_name_is_read_for_what_it_is(tmp_path):
    path = tmp_path / "a.safetensors"
    torch.save({"model": {}, "epoch": 3}, path)
    with pytest.raises(CheckpointError, match=r"found 2 entries \(model, epoch\)"):
        load_generator(path)
    with pytest.raises(CheckpointError, match=r"found a torch file, expected a generator's \.safetensors; .* convert"):
        read_manifest(path)


def test_an_old_pickle_that_looks_like_text_is_read(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": [1, 2.5, "b"]}, protocol=0))
    assert read_tensor_pickle(path) == {"a": [1, 2.5, "b"]}
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match=r"the global 'os\.system'"):
        read_tensor_pickle(path)


def test_a_training_run_of_ours_is_answered_with_the_command_that_exports_it(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 1, "state_dict": {"average.module.synthesis.constant": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match=r"found a training run of this project.*export .*last\.ckpt OUT"):
        load_generator(path)
