"""Beta-VAE (Higgins et al. 2017): strided encoder, decoder with bilinear upsampling, no normalisation layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.generators.small_networks.base import SmallGenerator, inner_size


class BetaVAEDecoder(SmallGenerator):
    """Latent -> 7 px -> 14 px -> 28 px: bilinear upsampling, 3x3 convolution, ELU; `width` channels at 28 px.

    Images in colour grow from 8 px to 32 px.
    """

    def __init__(self, latent_dim: int = 24, width: int = 24, image_channels: int = 1) -> None:
        super().__init__(latent_dim, image_channels)
        self.width = width
        self.start = self.image_shape[1] // 4
        self.input = nn.Linear(latent_dim, 4 * width * self.start**2)
        self.conv_14 = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.conv_28 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.output = nn.Conv2d(width, image_channels, 3, padding=1)

    def logits(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)` to the logits `(n, *image_shape)` of the pixel means."""
        x = F.elu(self.input(latents)).view(-1, 4 * self.width, self.start, self.start)
        for conv in (self.conv_14, self.conv_28):
            x = F.elu(conv(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)))
        logits: Tensor = self.output(x)
        return logits

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)` to images `(n, *image_shape)` in [0, 1]: the decoder's mean, no pixel noise."""
        return torch.sigmoid(self.logits(latents))


class BetaVAEEncoder(nn.Module):
    """28 px -> 14 px -> 7 px -> mean and log variance of q(z | x); `width` channels at 14 px, twice as many at 7 px."""

    def __init__(self, latent_dim: int = 24, width: int = 32, image_channels: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(image_channels, width, 4, stride=2, padding=1),
            nn.ELU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.ELU(),
            nn.Flatten(),
            nn.Linear(2 * width * (inner_size(image_channels) // 4) ** 2, 256),
            nn.ELU(),
            nn.Linear(256, 2 * latent_dim),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images `(n, *image_shape)` in [0, 1] to mean and log variance, each `(n, d)`."""
        mean, log_variance = self.layers(images).chunk(2, dim=1)
        return mean, log_variance


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) of rows `(n, d)`, in nats `(n,)` (Kingma & Welling 2014, App. B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
