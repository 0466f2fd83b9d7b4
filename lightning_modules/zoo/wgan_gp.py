"""Training of the WGAN-GP source (Gulrajani et al. 2017)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lightning_modules.generators.small_networks.wgan_gp import WGANGPCritic, WGANGPGenerator, gradient_penalty
from lightning_modules.zoo.training import GeneratorTraining


class WGANGP(GeneratorTraining):
    """One critic update per batch, one generator update every `critic_updates` batches.

    Args:
        latent_dim: length of a latent vector.
        width: channels of the generator at 28 px, a multiple of 8.
        critic_width: channels of the critic at 14 px.
        learning_rate: of both Adam optimisers.
        penalty: lambda, the factor on the gradient penalty.
        critic_updates: critic updates per generator update (n_critic).
        ema_decay: weight of the past in the averaged generator.
        image_channels: 1 for grey images of 28 px, 3 for RGB ones of 32 px.
    """

    source = "gan-wgan-gp"
    description: ClassVar[dict[str, str]] = {
        "family": "gan",
        "upsampling": "nearest",
        "downsampling": "strided convolution",
        "normalisation": "group norm",
        "non_linearity": "silu",
        "skip": "residual",
        "loss": "wasserstein with gradient penalty",
    }
    generator_arguments = ("latent_dim", "width", "image_channels")

    def __init__(
        self,
        latent_dim: int = 64,
        width: int = 16,
        critic_width: int = 32,
        learning_rate: float = 3e-4,
        penalty: float = 10.0,
        critic_updates: int = 2,
        ema_decay: float = 0.998,
        image_channels: int = 1,
    ) -> None:
        super().__init__(WGANGPGenerator(latent_dim, width, image_channels), ema_decay)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.critic = WGANGPCritic(critic_width, image_channels)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam without momentum for both players (Gulrajani et al. 2017, Algorithm 1)."""
        return [
            torch.optim.Adam(network.parameters(), lr=self.hparams["learning_rate"], betas=(0.0, 0.9))
            for network in (self.critic, self.generator)
        ]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Update the critic, and the generator when it is its turn."""
        real = self.inner_images(batch)
        critic_optimiser, generator_optimiser = self.optimisers()
        latents = torch.randn(len(real), self.generator.latent_dim, device=self.device)
        with torch.no_grad():
            fake = self.generator(latents)

        distance = self.critic(real).mean() - self.critic(fake).mean()  # estimate of the Wasserstein distance
        mix = torch.rand(len(real), 1, 1, 1, device=self.device)
        penalty = gradient_penalty(self.critic, real, fake, mix)
        self.step(critic_optimiser, self.hparams["penalty"] * penalty - distance)
        self.log_dict({"train/wasserstein": distance, "train/gradient_penalty": penalty}, prog_bar=True)

        if (batch_idx + 1) % self.hparams["critic_updates"] == 0:
            generator_loss = -self.critic(self.generator(torch.randn_like(latents))).mean()
            self.step(generator_optimiser, generator_loss)
            self.generator_updated()
            self.log("train/generator_loss", generator_loss)
