"""Training of the beta-VAE source (Higgins et al. 2017)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.generators.small_networks.beta_vae import BetaVAEDecoder, BetaVAEEncoder, kl_to_standard_normal
from lightning_modules.zoo.training import GeneratorTraining


class BetaVAE(GeneratorTraining):
    """Reconstruction plus beta times the divergence of the posterior from the prior.

    Args:
        latent_dim: length of a latent vector.
        width: channels of the decoder at 28 px.
        encoder_width: channels of the encoder at 14 px.
        beta: factor on the KL term; above 1 it trades sharpness for samples that stay on the manifold.
        learning_rate: of Adam.
        ema_decay: weight of the past in the averaged decoder.
        image_channels: 1 for grey images of 28 px, 3 for RGB ones of 32 px.
    """

    source = "vae-beta-vae"
    description: ClassVar[dict[str, str]] = {
        "family": "vae",
        "upsampling": "bilinear",
        "downsampling": "strided convolution",
        "normalisation": "none",
        "non_linearity": "elu",
        "skip": "none",
        "loss": "binary cross-entropy plus beta times KL",
    }
    generator_arguments = ("latent_dim", "width", "image_channels")

    def __init__(
        self,
        latent_dim: int = 24,
        width: int = 12,
        encoder_width: int = 16,
        beta: float = 2.0,
        learning_rate: float = 1e-3,
        ema_decay: float = 0.998,
        image_channels: int = 1,
    ) -> None:
        super().__init__(BetaVAEDecoder(latent_dim, width, image_channels), ema_decay)
        self.save_hyperparameters()
        self.encoder = BetaVAEEncoder(latent_dim, encoder_width, image_channels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on encoder and decoder; the averaged copy is not trained."""
        parameters = [*self.encoder.parameters(), *self.generator.parameters()]
        return torch.optim.Adam(parameters, lr=self.hparams["learning_rate"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the negative evidence lower bound in nats per image, its KL term weighted by beta (Eq. 4)."""
        images = self.inner_images(batch)
        mean, log_variance = self.encoder(images)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        logits = self.generator.logits(latents)
        reconstruction = F.binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)
        divergence = kl_to_standard_normal(mean, log_variance).mean()
        self.log_dict({"train/reconstruction": reconstruction, "train/kl": divergence}, prog_bar=True)
        bound: Tensor = reconstruction + self.hparams["beta"] * divergence
        return bound
