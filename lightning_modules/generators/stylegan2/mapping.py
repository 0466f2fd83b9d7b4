"""The mapping network of StyleGAN2: z to the style latent w (Karras et al. 2019, section 2)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from lightning_modules.generators.stylegan2.layers import EPSILON, EqualisedLinear, activate


class Mapping(nn.Module):
    """Normalise z to unit second moment, then `layers` linear layers with leaky ReLU.

    Args:
        z_dim: length of z.
        w_dim: length of w.
        layers: number of layers, 8 in config-f.
        lr_multiplier: learning rate of this network relative to the others.
    """

    mean: Tensor

    def __init__(self, z_dim: int, w_dim: int, layers: int = 8, lr_multiplier: float = 0.01) -> None:
        super().__init__()
        sizes = [z_dim] + [w_dim] * layers
        self.layers = nn.ModuleList(
            EqualisedLinear(a, b, lr_multiplier=lr_multiplier) for a, b in itertools.pairwise(sizes)
        )
        self.register_buffer("mean", torch.zeros(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        """Map latents `(n, z_dim)` to styles `(n, w_dim)`."""
        x = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + EPSILON)
        for layer in self.layers:
            x = activate(layer(x))
        return x
