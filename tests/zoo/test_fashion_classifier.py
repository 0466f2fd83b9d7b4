"""The classifier of garments trains, and its export is what the metrics load."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch.utils.data import DataLoader

from datamodules.real import load_real_set
from datamodules.real_images import RealImages
from lightning_modules.metrics.fashion_cnn import load_fashion_cnn
from lightning_modules.zoo.fashion_classifier import FashionClassifier, accuracy, augment, export


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder as train.py leaves it, and its module."""
    folder = tmp_path_factory.mktemp("run")
    pl.seed_everything(3, verbose=False)
    module = FashionClassifier(width=8, num_features=16, learning_rate=2e-2)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, DataLoader(RealImages(load_real_set("fashion_sample", split="train")), batch_size=64))
    (folder / "checkpoints").mkdir()
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed_everything": 3}))
    return folder, module.eval()


def test_export_is_the_trained_network(run, tmp_path):
    folder, module = run
    weights = export(folder / "checkpoints" / "last.ckpt", tmp_path, test_set="fashion_sample")
    assert weights == tmp_path / "fashion_cnn.safetensors"
    described = yaml.safe_load((tmp_path / "fashion_cnn.yaml").read_text())
    assert described["arguments"] == {"width": 8, "num_features": 16}
    assert (described["seed"], described["steps"]) == (3, module.trainer.global_step)
    tested = load_real_set("fashion_sample", split="test")
    network = load_fashion_cnn(tmp_path)
    assert described["test_accuracy"] == accuracy(network, tested) > 0.4  # chance is 0.1
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images), module.network(images), atol=3e-2, rtol=1e-2)  # half precision


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match=r"found no .*config\.yaml"):
        export(tmp_path / "checkpoints" / "last.ckpt", tmp_path, test_set="fashion_sample")


def test_labels_are_needed():
    with pytest.raises(ValueError, match=r"found labels \[-1\]"):
        FashionClassifier(width=4).training_step(
            {"image": torch.rand(2, 3, 32, 32), "label": torch.tensor([-1, -1])}, 0
        )


def test_augmentation_moves_whole_images():
    images = torch.zeros(400, 3, 32, 32)
    images[:, :, 10, 5] = torch.arange(1.0, 401)[:, None]
    moved = augment(images, shift=2)
    assert torch.equal(moved.sum(dim=(2, 3)), images.sum(dim=(2, 3)))  # nothing is lost, channels move together
    where = {(int(row), int(column)) for _, _, row, column in moved.nonzero()}
    assert where == {(row, column) for row in range(8, 13) for side in (5, 26) for column in range(side - 2, side + 3)}
