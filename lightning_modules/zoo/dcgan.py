"""Training of the DCGAN source: the non-saturating game of Goodfellow et al. 2014 with the network of Radford 2016."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.generators.small_networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_modules.zoo.training import GeneratorTraining


class DCGAN(GeneratorTraining):
    """One discriminator and one generator update per batch.

    Args:
        latent_dim: length of a latent vector.
        width: channels of generator and discriminator at 14 px.
        learning_rate: of both Adam optimisers.
        ema_decay: weight of the past in the averaged generator.
        image_channels: 1 for grey images of 28 px, 3 for RGB ones of 32 px.
    """

    source = "gan-dcgan"
    description: ClassVar[dict[str, str]] = {
        "family": "gan",
        "upsampling": "transposed convolution",
        "downsampling": "strided convolution",
        "normalisation": "batch norm",
        "non_linearity": "relu",
        "skip": "none",
        "loss": "non-saturating binary cross-entropy",
    }
    generator_arguments = ("latent_dim", "width", "image_channels")

    def __init__(
        self,
        latent_dim: int = 64,
        width: int = 32,
        learning_rate: float = 3e-4,
        ema_decay: float = 0.998,
        image_channels: int = 1,
    ) -> None:
        super().__init__(DCGANGenerator(latent_dim, width, image_channels), ema_decay)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.discriminator = DCGANDiscriminator(width, image_channels)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam with beta1 = 0.5 for both players (Radford et al. 2016, Sec. 4)."""
        return [
            torch.optim.Adam(network.parameters(), lr=self.hparams["learning_rate"], betas=(0.5, 0.999))
            for network in (self.discriminator, self.generator)
        ]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Update the discriminator, then the generator on the same fakes."""
        real = self.inner_images(batch)
        discriminator_optimiser, generator_optimiser = self.optimisers()
        fake = self.generator(torch.randn(len(real), self.generator.latent_dim, device=self.device))

        # -log D(real) - log(1 - D(fake)), written with softplus of logits
        on_real, on_fake = self.discriminator(real), self.discriminator(fake.detach())
        discriminator_loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        self.step(discriminator_optimiser, discriminator_loss)

        generator_loss = F.softplus(-self.discriminator(fake)).mean()  # -log D(fake)
        self.step(generator_optimiser, generator_loss)
        self.generator_updated()
        self.log_dict(
            {"train/discriminator_loss": discriminator_loss, "train/generator_loss": generator_loss}, prog_bar=True
        )
