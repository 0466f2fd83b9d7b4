"""A small Glow (Kingma & Dhariwal 2018): an invertible map between images and N(0, I), trained by exact likelihood."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.generators.flow_steps import FlowStep, squeeze, unsqueeze
from lightning_modules.generators.grey import INNER_SIZE, GreyGenerator

LOGIT_MARGIN = 0.05
"""Pixels are squeezed into [0.05, 0.95] before the logit (Dinh et al. 2017, Sec. 4.1), which keeps it finite."""


class GlowGenerator(GreyGenerator):
    """Two levels of flow steps, at 14 px with 4 channels and at 7 px with 16; the latent has as many entries as pixels.

    Args:
        steps_14: flow steps at 14 px.
        steps_7: flow steps at 7 px.
        hidden_14: channels inside the coupling networks at 14 px.
        hidden_7: channels inside the coupling networks at 7 px.
        temperature: factor on the latents when sampling (Kingma & Dhariwal 2018, Sec. 6); 1 samples the model itself.
    """

    def __init__(
        self, steps_14: int = 4, steps_7: int = 16, hidden_14: int = 64, hidden_7: int = 128, temperature: float = 0.7
    ) -> None:
        super().__init__(latent_dim=INNER_SIZE**2)
        self.temperature = temperature
        self.level_14 = nn.ModuleList(FlowStep(4, hidden_14) for _ in range(steps_14))
        self.level_7 = nn.ModuleList(FlowStep(16, hidden_7) for _ in range(steps_7))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map dequantised grey images to latents, with the log volume change.

        Args:
            images: `(n, 1, 28, 28)`, strictly inside [0, 1).

        Returns:
            latents `(n, 784)` and `log |d latent / d image|` `(n,)` in nats.
        """
        squashed = LOGIT_MARGIN + (1 - 2 * LOGIT_MARGIN) * images
        x = torch.logit(squashed)
        # d logit(p)/dp = 1/(p(1-p)), so its logarithm is softplus(x) + softplus(-x)
        log_det = (F.softplus(x) + F.softplus(-x)).flatten(1).sum(dim=1)
        log_det = log_det + x[0].numel() * math.log(1 - 2 * LOGIT_MARGIN)
        x = squeeze(x)
        for step in self.level_14:
            x, change = step(x)
            log_det = log_det + change
        x = squeeze(x)
        for step in self.level_7:
            x, change = step(x)
            log_det = log_det + change
        return x.flatten(1), log_det

    def decode(self, latents: Tensor) -> Tensor:
        """Undo `encode`: latents `(n, 784)` to grey images `(n, 1, 28, 28)`, within a twentieth of [0, 1]."""
        x = latents.view(-1, 16, 7, 7)
        for step in reversed(self.level_7):
            x = step.inverse(x)  # type: ignore[operator]  # a ModuleList hides the class of its items
        x = unsqueeze(x)
        for step in reversed(self.level_14):
            x = step.inverse(x)  # type: ignore[operator]
        return (torch.sigmoid(unsqueeze(x)) - LOGIT_MARGIN) / (1 - 2 * LOGIT_MARGIN)

    def log_likelihood(self, images: Tensor) -> Tensor:
        """Log density of dequantised images `(n, 1, 28, 28)` in [0, 1), in nats `(n,)`."""
        latents, log_det = self.encode(images)
        log_prior = -0.5 * (latents.square() + math.log(2 * math.pi)).sum(dim=1)
        return log_prior + log_det

    def forward(self, latents: Tensor) -> Tensor:
        """Map N(0, I) latents `(n, 784)` to grey images `(n, 1, 28, 28)`, about [0, 1], at the sampling temperature."""
        return self.decode(self.temperature * latents)
