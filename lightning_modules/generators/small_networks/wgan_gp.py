"""WGAN-GP (Gulrajani et al. 2017): residual blocks with nearest-neighbour upsampling, no batch statistics anywhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.generators.small_networks.base import SmallGenerator, inner_size


class UpBlock(nn.Module):
    """Nearest-neighbour x2, then a residual 3x3 convolution behind group norm and SiLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, c, h, w)` to `(n, out, 2h, 2w)`."""
        # a 1x1 convolution commutes with nearest upsampling and costs a quarter before it
        skip = F.interpolate(self.skip(x), scale_factor=2.0, mode="nearest")
        x = F.interpolate(F.silu(self.norm(x)), scale_factor=2.0, mode="nearest")
        out: Tensor = skip + self.conv(x)
        return out


class WGANGPGenerator(SmallGenerator):
    """Latent -> 7 px -> 14 px -> 28 px by nearest-neighbour residual blocks; the width is a multiple of 8.

    Images in colour grow from 8 px to 32 px.
    """

    def __init__(self, latent_dim: int = 64, width: int = 32, image_channels: int = 1) -> None:
        super().__init__(latent_dim, image_channels)
        self.width = width
        self.start = self.image_shape[1] // 4
        self.input = nn.Linear(latent_dim, 4 * width * self.start**2)
        self.blocks = nn.Sequential(UpBlock(4 * width, 2 * width), UpBlock(2 * width, width))
        last = nn.Conv2d(width, image_channels, 3, padding=1)
        self.output = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), last, nn.Sigmoid())

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)` to images `(n, *image_shape)` in [0, 1]."""
        x = self.input(latents).view(-1, 4 * self.width, self.start, self.start)
        images: Tensor = self.output(self.blocks(x))
        return images


class WGANGPCritic(nn.Module):
    """28 px -> 14 px -> 7 px -> one unbounded score; no batch norm, which the penalty forbids (Sec. 4)."""

    def __init__(self, width: int = 64, image_channels: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(image_channels, width, 4, stride=2, padding=1),  # (n, w, 14, 14)
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),  # (n, 2w, 7, 7)
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * (inner_size(image_channels) // 4) ** 2, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, *image_shape)` in [0, 1] to scores `(n,)`, high for real."""
        scores: Tensor = self.layers(images * 2 - 1)
        return scores.flatten()


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Two-sided gradient penalty of WGAN-GP (Gulrajani et al. 2017, Eq. 3), without its factor lambda.

    Args:
        critic: maps `(n, c, h, w)` to `(n,)`; must treat samples independently.
        real: real images `(n, c, h, w)`.
        fake: generated images of the same shape.
        mix: `(n, 1, 1, 1)` in [0, 1], the share of the real image on the line between the two.

    Returns:
        scalar: mean over the batch of `(||grad critic(mixed)||_2 - 1)^2`.
    """
    mixed = (mix * real.detach() + (1 - mix) * fake.detach()).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    # the small constant keeps the square root differentiable where a gradient vanishes
    norm = (gradient.flatten(1).square().sum(dim=1) + 1e-12).sqrt()
    return (norm - 1).square().mean()
