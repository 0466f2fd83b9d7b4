"""The classifier that ships knows garments, and only its own weights."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml

from datamodules.images.image_io import to_tensor
from datamodules.real import load_real_set
from lightning_modules.metrics.fashion_cnn import WEIGHTS_FOLDER, load_fashion_cnn


def test_shipped_weights_name_garments_of_the_test_split():
    tested = load_real_set("fashion_sample", split="test")
    images = torch.stack([to_tensor(tested.pictures[i]) for i in range(len(tested))])
    network = load_fashion_cnn()
    found = network(images).argmax(dim=1)
    assert (found == torch.from_numpy(tested.labels)).float().mean() > 0.88
    assert yaml.safe_load((WEIGHTS_FOLDER / "fashion_cnn.yaml").read_text())["test_accuracy"] > 0.9
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_features_differ_between_kinds_and_ignore_colour():
    tested = load_real_set("fashion_sample", split="test")
    images = torch.stack([to_tensor(tested.pictures[i]) for i in range(20)])
    network = load_fashion_cnn()
    features = network.features(images)
    assert features.shape == (20, 64)
    assert (features >= 0).all()
    assert torch.cdist(features, features).fill_diagonal_(1).min() > 0.01
    torch.testing.assert_close(network.features(images.roll(1, dims=1)), features)


def test_files_are_small_and_described():
    described = yaml.safe_load((WEIGHTS_FOLDER / "fashion_cnn.yaml").read_text())
    assert (WEIGHTS_FOLDER / described["weights"]).stat().st_size < 600_000
    assert described["licence"] == "MIT"
    assert "training split" in described["training_set"]


def test_changed_and_missing_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"fashion_cnn\.yaml; restore it"):
        load_fashion_cnn(tmp_path)
    shutil.copy(WEIGHTS_FOLDER / "fashion_cnn.yaml", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"though fashion_cnn\.yaml names it"):
        load_fashion_cnn(tmp_path)
    content = bytearray((WEIGHTS_FOLDER / "fashion_cnn.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "fashion_cnn.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"found sha256 .*, expected .*restore the file"):
        load_fashion_cnn(tmp_path)
