"""Training of the RealNVP source by exact likelihood (Dinh et al. 2017)."""

from __future__ import annotations

import math
from itertools import islice
from typing import ClassVar

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from lightning_modules.generators.small_networks.realnvp import RealNVPGenerator
from lightning_modules.zoo.training import GeneratorTraining

AXES_BATCHES = 100
"""Batches that the principal axes are taken from; with 128 grey images each, 16 images per axis."""


class RealNVP(GeneratorTraining):
    """Maximum likelihood of 8-bit images with uniform noise between the grey levels.

    Args:
        leading: number of principal coordinates with couplings among them, even.
        couplings: number of couplings.
        hidden: width of the dense networks.
        temperature: factor on the latents when sampling.
        learning_rate: of Adam, after a linear warm-up.
        warmup: updates until the learning rate is reached.
        ema_decay: weight of the past in the averaged flow.
        image_channels: 1 for grey images of 28 px, 3 for RGB ones of 32 px.
        axes: principal axes that are kept, for smaller files; None for all.
        rest_temperature: factor on the latents of what these axes leave, when sampling; None for `temperature`.
    """

    source = "flow-realnvp"
    description: ClassVar[dict[str, str]] = {
        "family": "flow",
        "upsampling": "linear",
        "downsampling": "linear",
        "normalisation": "whitening",
        "non_linearity": "gelu",
        "skip": "affine coupling",
        "loss": "negative log-likelihood",
    }
    generator_arguments = (
        *("leading", "couplings", "hidden", "temperature", "image_channels", "axes", "rest_temperature"),
    )

    def __init__(
        self,
        leading: int = 128,
        couplings: int = 10,
        hidden: int = 384,
        temperature: float = 0.7,
        learning_rate: float = 5e-4,
        warmup: int = 200,
        ema_decay: float = 0.998,
        image_channels: int = 1,
        axes: int | None = None,
        rest_temperature: float | None = None,
    ) -> None:
        flow = RealNVPGenerator(leading, couplings, hidden, temperature, image_channels, axes, rest_temperature)
        super().__init__(flow, ema_decay)
        self.save_hyperparameters()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with a linear warm-up."""
        # fused: with dense layers this wide the plain update takes a third of a step
        optimiser = torch.optim.Adam(self.generator.parameters(), lr=self.hparams["learning_rate"], fused=True)
        return self.warmed_up(optimiser)

    def on_train_start(self) -> None:
        """Take the principal axes from the first training images, unless a checkpoint brought them."""
        if self.updates:
            return
        batches = islice(self.trainer.train_dataloader or (), AXES_BATCHES)
        images = torch.cat([self.dequantise(self.inner_images(batch)).flatten(1) for batch in batches])
        needed = 2 * self.generator.principal_axes.kept
        if len(images) < needed:
            raise ValueError(
                f"found {len(images)} images for the principal axes, expected at least {needed}: set fewer `axes`"
            )
        self.generator.principal_axes.fit(images.to(self.device))

    def dequantise(self, images: Tensor) -> Tensor:
        """Spread each 8-bit level over its interval of width 1/256: `(n, c, h, w)` in [0, 1] to [0, 1)."""
        return (images * 255 + torch.rand_like(images)) / 256

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return bits per dimension of the 8-bit images."""
        images = self.dequantise(self.inner_images(batch))
        nats = -self.generator.log_likelihood(images).mean()
        # the density is over [0, 1): a level is 1/256 wide, which adds 8 bits per pixel
        bits: Tensor = nats / (self.generator.dim * math.log(2)) + 8
        self.log("train/bits_per_dim", bits, prog_bar=True)
        return bits
