"""Training of the DDPM source by denoising (Ho et al. 2020)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from lightning_modules.zoo.training import GeneratorTraining


class DDPM(GeneratorTraining):
    """Squared error of the predicted v at a random noise level.

    Args:
        channels: channels of the UNet at 14 px, a multiple of 8, and at 7 px, a multiple of 32.
        layers_per_block: residual layers per resolution.
        training_steps: number of noise levels.
        sampling_steps: DDIM steps of the exported generator.
        learning_rate: of AdamW, after a linear warm-up.
        warmup: updates until the learning rate is reached.
        ema_decay: weight of the past in the averaged UNet.
        image_channels: 1 for grey images of 28 px, 3 for RGB ones of 32 px.
    """

    source = "score-ddpm"
    description: ClassVar[dict[str, str]] = {
        "family": "score",
        "upsampling": "nearest",
        "downsampling": "strided convolution",
        "normalisation": "group norm",
        "non_linearity": "silu",
        "skip": "residual and concatenation",
        "loss": "denoising squared error (v)",
    }
    generator_arguments = ("channels", "layers_per_block", "training_steps", "sampling_steps", "image_channels")

    def __init__(
        self,
        channels: tuple[int, int] = (32, 64),
        layers_per_block: int = 1,
        training_steps: int = 1000,
        sampling_steps: int = 25,
        learning_rate: float = 1e-3,
        warmup: int = 200,
        ema_decay: float = 0.998,
        image_channels: int = 1,
    ) -> None:
        # importing diffusers takes seconds, which the other sources need not pay
        from lightning_modules.generators.small_networks.ddpm import DDPMGenerator

        unet = DDPMGenerator(channels, layers_per_block, training_steps, sampling_steps, image_channels)
        super().__init__(unet, ema_decay)
        self.save_hyperparameters()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a linear warm-up."""
        optimiser = torch.optim.AdamW(self.generator.parameters(), lr=self.hparams["learning_rate"], weight_decay=0.0)
        return self.warmed_up(optimiser)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean squared error of v (Salimans & Ho 2022, App. D)."""
        images = self.inner_images(batch)
        time = torch.randint(0, self.hparams["training_steps"], (len(images),), device=self.device)
        noised, target = self.generator.add_noise(images, torch.randn_like(images), time)
        loss = F.mse_loss(self.generator.predict(noised, time), target)
        self.log("train/loss", loss, prog_bar=True)
        return loss
