"""DCGAN (Radford et al. 2016): transposed convolutions, batch norm, ReLU; strided discriminator with leaky ReLU."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_modules.generators.small_networks.base import SmallGenerator, inner_size


class DCGANGenerator(SmallGenerator):
    """Latent -> 7 px -> 14 px -> 28 px by transposed convolutions (Radford et al. 2016, Fig. 1); RGB: 8, 16, 32 px."""

    def __init__(self, latent_dim: int = 64, width: int = 64, image_channels: int = 1) -> None:
        super().__init__(latent_dim, image_channels)
        start = self.image_shape[1] // 4
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(latent_dim, 2 * width, start, bias=False),  # (n, 2w, 7, 7)
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),  # (n, w, 14, 14)
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, image_channels, 4, stride=2, padding=1),  # (n, 1, 28, 28)
            nn.Tanh(),
        )
        self.apply(initialise)

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)` to images `(n, *image_shape)` in [0, 1]."""
        images: Tensor = self.layers(latents[:, :, None, None])
        return (images + 1) / 2


class DCGANDiscriminator(nn.Module):
    """28 px -> 14 px -> 7 px -> one logit, by strided convolutions; RGB: from 32 px."""

    def __init__(self, width: int = 64, image_channels: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            # (n, w, 14, 14); no norm on the first layer, as in the paper
            nn.Conv2d(image_channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),  # (n, 2w, 7, 7)
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, inner_size(image_channels) // 4),  # (n, 1, 1, 1)
        )
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, *image_shape)` in [0, 1] to logits `(n,)`, high for real."""
        logits: Tensor = self.layers(images * 2 - 1)
        return logits.flatten()


def initialise(module: nn.Module) -> None:
    """N(0, 0.02) weights (Radford et al. 2016, Sec. 4); batch norm starts around 1."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
