"""Training of the Glow source by exact likelihood (Kingma & Dhariwal 2018)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from lightning_modules.generators.glow import GlowGenerator
from lightning_modules.generators.grey import INNER_SIZE
from lightning_modules.zoo.training import GeneratorTraining


class Glow(GeneratorTraining):
    """Maximum likelihood of images with few grey levels and uniform noise between the levels.

    Args:
        steps_14: flow steps at 14 px.
        steps_7: flow steps at 7 px.
        hidden_14: channels inside the coupling networks at 14 px.
        hidden_7: channels inside the coupling networks at 7 px.
        temperature: factor on the latents when sampling.
        levels: grey levels of the training images; 32 as in the paper's samples (Sec. 6), fewer levels leave less noise
            to model.
        learning_rate: of Adam, after a linear warm-up.
        warmup: updates until the learning rate is reached.
        ema_decay: weight of the past in the averaged flow.
    """

    source = "flow-glow"
    description: ClassVar[dict[str, str]] = {
        "family": "flow",
        "upsampling": "pixel shuffle",
        "downsampling": "pixel unshuffle",
        "normalisation": "actnorm",
        "non_linearity": "relu",
        "skip": "affine coupling",
        "loss": "negative log-likelihood",
    }
    generator_arguments = ("steps_14", "steps_7", "hidden_14", "hidden_7", "temperature")

    def __init__(
        self,
        steps_14: int = 2,
        steps_7: int = 16,
        hidden_14: int = 32,
        hidden_7: int = 64,
        temperature: float = 0.7,
        levels: int = 32,
        learning_rate: float = 1e-3,
        warmup: int = 200,
        ema_decay: float = 0.998,
    ) -> None:
        super().__init__(GlowGenerator(steps_14, steps_7, hidden_14, hidden_7, temperature), ema_decay)
        self.save_hyperparameters()

    def configure_optimizers(self) -> dict[str, object]:
        """Adam with a linear warm-up."""
        optimiser = torch.optim.Adam(self.generator.parameters(), lr=self.hparams["learning_rate"])
        warmup = self.hparams["warmup"]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda update: min(1.0, (update + 1) / warmup))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return bits per dimension of the images at `levels` grey levels."""
        levels = self.hparams["levels"]
        images = self.grey_images(batch)
        level = (images * 255 * levels / 256).floor()  # 8-bit value to 0 .. levels - 1
        dequantised = (level + torch.rand_like(images)) / levels  # in [0, 1)
        nats = -self.generator.log_likelihood(dequantised).mean()
        # the density is over [0, 1): a level is 1/levels wide, which adds log2(levels) bits per pixel
        bits = nats / (INNER_SIZE**2 * math.log(2)) + math.log2(levels)
        self.log("train/bits_per_dim", bits, prog_bar=True)
        return bits

    def on_train_batch_end(self, *_: object) -> None:
        """Follow the flow with its average."""
        self.generator_updated()
