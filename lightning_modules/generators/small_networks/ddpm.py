"""DDPM (Ho et al. 2020) on diffusers' UNet2DModel, sampled by DDIM without noise: the latent is the initial noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from lightning_modules.generators.small_networks.base import SmallGenerator, inner_size


def cosine_signal(steps: int) -> Tensor:
    """Signal level sqrt(alpha_bar_t) of the cosine schedule (Nichol & Dhariwal 2021, Eq. 17) at t = 1 .. `steps`."""
    offset = 0.008
    time = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return torch.cos((time + offset) / (1 + offset) * torch.pi / 2).clamp(min=1e-3).float()


class DDPMGenerator(SmallGenerator):
    """A UNet that predicts v = alpha * noise - sigma * image (Salimans & Ho 2022), run from pure noise to an image.

    The network works on 2x2 pixel blocks moved into channels (14 px, 4 channels; in colour 16 px, 12 channels): four
    times cheaper, which is what makes training on a CPU possible. Predicting v keeps every step finite without
    clipping, so the whole sampler is differentiable in its latent.

    Args:
        channels: channels at 14 px, a multiple of 8, and at 7 px, a multiple of 32.
        layers_per_block: residual layers per resolution.
        training_steps: number of noise levels T in training.
        sampling_steps: DDIM steps of `forward`.
        image_channels: 1 for grey images of 28 px, 3 for RGB ones of 32 px.
    """

    signal: Tensor

    def __init__(
        self,
        channels: tuple[int, int] = (64, 128),
        layers_per_block: int = 1,
        training_steps: int = 1000,
        sampling_steps: int = 25,
        image_channels: int = 1,
    ) -> None:
        size = inner_size(image_channels)
        super().__init__(image_channels * size**2, image_channels)
        self.training_steps = training_steps
        self.sampling_steps = sampling_steps
        self.unet: nn.Module = UNet2DModel(  # type: ignore[no-untyped-call,assignment]
            sample_size=size // 2,
            in_channels=4 * image_channels,
            out_channels=4 * image_channels,
            block_out_channels=tuple(channels),
            layers_per_block=layers_per_block,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            attention_head_dim=32,
        )
        self.register_buffer("signal", cosine_signal(training_steps), persistent=False)

    def add_noise(self, images: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Noised images and the target v, each `(n, *image_shape)`, of clean images in [0, 1] at int64 times `(n,)`."""
        alpha = self.signal[time].view(-1, 1, 1, 1)
        sigma = (1 - alpha.square()).sqrt()
        centred = images * 2 - 1
        return alpha * centred + sigma * noise, alpha * noise - sigma * centred

    def predict(self, noised: Tensor, time: Tensor) -> Tensor:
        """Predict v `(n, *image_shape)` from noised images of that shape at noise levels `time` `(n,)`."""
        return F.pixel_shuffle(self.unet(F.pixel_unshuffle(noised, 2), time).sample, 2)

    def forward(self, latents: Tensor) -> Tensor:
        """Run DDIM with eta = 0 (Song et al. 2021, Eq. 12) from noise `(n, d)` to images `(n, *image_shape)`."""
        x = latents.view(-1, *self.image_shape)
        times = torch.linspace(self.training_steps - 1, 0, self.sampling_steps).round().long()
        clean = x
        for i, time in enumerate(times):
            alpha = self.signal[time]
            sigma = (1 - alpha.square()).sqrt()
            v = self.predict(x, time.expand(len(x)).to(x.device))
            clean, noise = alpha * x - sigma * v, sigma * x + alpha * v
            if i + 1 < len(times):
                following = self.signal[times[i + 1]]
                x = following * clean + (1 - following.square()).sqrt() * noise
        return (clean + 1) / 2
