"""Training of the classifier whose features measure Frechet distances between garments, and its export."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from datamodules.images.image_io import to_tensor
from datamodules.real import RealSet, load_real_set
from lightning_modules.common.files import write_bytes, write_text
from lightning_modules.metrics.fashion_cnn import CLASSES, WEIGHTS_FOLDER, FashionCNN, load_fashion_cnn
from lightning_modules.zoo.export import halved, read_config


class FashionClassifier(pl.LightningModule):
    """Cross-entropy on the labels of the training split, AdamW with one cycle of the learning rate.

    Args:
        width: channels of the network at 16 px.
        num_features: dimensions of its penultimate layer.
        learning_rate: the cycle's highest.
        weight_decay: of AdamW.
        shift: largest shift in pixels of the augmentation; images are also mirrored.
    """

    def __init__(
        self,
        width: int = 32,
        num_features: int = 64,
        learning_rate: float = 4e-3,
        weight_decay: float = 0.05,
        shift: int = 2,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = FashionCNN(width, num_features)

    def configure_optimizers(self) -> Any:
        """AdamW; the learning rate rises over the first quarter of the updates and falls to nothing."""
        rate = self.hparams["learning_rate"]
        optimiser = torch.optim.AdamW(
            self.parameters(), lr=rate, weight_decay=self.hparams["weight_decay"], betas=(0.9, 0.99)
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, rate, total_steps=int(self.trainer.estimated_stepping_batches), pct_start=0.25
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a mirrored and shifted batch."""
        labels = batch["label"]
        if bool(((labels < 0) | (labels >= CLASSES)).any()):
            raise ValueError(f"found labels {sorted(set(labels.tolist()))}; expected a set with classes 0 .. 9")
        logits = self.network(augment(batch["image"], self.hparams["shift"]))
        loss, accuracy = F.cross_entropy(logits, labels), (logits.argmax(dim=1) == labels).float().mean()
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy}, prog_bar=True)
        return loss


def augment(images: Tensor, shift: int) -> Tensor:
    """Mirror half of the images and shift each by up to `shift` pixels, black moving in: `(n, c, h, w)`, as given."""
    n, channels, height, width = images.shape
    mirrored = torch.where((torch.rand(n, device=images.device) < 0.5)[:, None, None, None], images.flip(3), images)
    padded = F.pad(mirrored, (shift,) * 4)
    down, right = torch.randint(0, 2 * shift + 1, (2, n, 1), device=images.device)
    rows = (down + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (right + torch.arange(width, device=images.device))[:, None, None, :]
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[image, channel, rows, columns]


@torch.no_grad()
def accuracy(network: FashionCNN, real_set: RealSet) -> float:
    """Share of a set's images that are given their label."""
    if real_set.labels is None:
        raise ValueError(f"{real_set.name} has no classes; expected Fashion-MNIST or its sample")
    right = 0
    for start in range(0, len(real_set), 500):
        labels = torch.from_numpy(real_set.labels[start : start + 500])
        images = [to_tensor(real_set.pictures[start + i]) for i in range(len(labels))]
        right += int((network(torch.stack(images)).argmax(dim=1) == labels).sum())
    return right / len(real_set)


def export(checkpoint: Path, out: Path = WEIGHTS_FOLDER, test_set: str = "fashion") -> Path:
    """Write the network of a training checkpoint in half precision, with its description beside it; returns its file.

    Args:
        checkpoint: `checkpoints/last.ckpt` of a run folder of `train.py`, whose `config.yaml` lies above it.
        out: folder for `fashion_cnn.safetensors` and `fashion_cnn.yaml`.
        test_set: set whose test split the exported weights are tested on, for the description.

    Raises:
        FileNotFoundError: no `config.yaml` in the run folder, or no test images.
    """
    tested = load_real_set(test_set, split="test")
    config = read_config(checkpoint)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    hparams = {key: value for key, value in content["hyper_parameters"].items() if not key.startswith("_")}
    module = FashionClassifier(**hparams)
    module.load_state_dict(content["state_dict"])
    weights = halved(module.network)
    entry = {
        "weights": "fashion_cnn.safetensors",
        "sha256": hashlib.sha256(weights).hexdigest(),
        "arguments": {name: hparams[name] for name in ("width", "num_features")},
        "licence": "MIT",
        "origin": "trained for this project with configs/zoo/fashion_classifier.yaml; no other weights went in",
        "training_set": "Fashion-MNIST (Xiao et al. 2017, MIT), training split",
        "seed": config["seed_everything"],
        "steps": content["global_step"],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / str(entry["weights"]), weights)
    _describe(entry, out)
    entry["test_accuracy"] = accuracy(load_fashion_cnn(out), tested)  # of the weights as shipped, not as trained
    entry["test_set"] = f"{test_set} (test), {len(tested)} images"
    _describe(entry, out)
    return out / str(entry["weights"])


def _describe(entry: dict[str, Any], out: Path) -> None:
    write_text(out / "fashion_cnn.yaml", yaml.safe_dump(entry, sort_keys=False))
