"""A patch discriminator for the first stage (Isola et al. 2017; Esser et al. 2021, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Sequential):
    """Judges patches of an image: `(n, 3, H, W)` to one number for each, `(n, 1, H / 4, W / 4)`.

    Args:
        width: channels after the first convolution, a multiple of 4.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(4, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator from its judgement of reals and of reconstructions (Lim & Ye 2017)."""
    return (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()) / 2.0


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Balance two losses by their gradients at the decoder's last layer (Esser et al. 2021, Eq. 7).

    Args:
        reconstruction: scalar loss.
        adversarial: scalar loss, which the weight is for.
        last_layer: weights of the last layer.

    Returns:
        Scalar without gradient, at most 10000.
    """
    (first,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (second,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    weight: Tensor = (first.norm() / (second.norm() + 1e-4)).clamp(max=1e4)
    return weight.detach()
