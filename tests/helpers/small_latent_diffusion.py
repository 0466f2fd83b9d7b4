"""An untrained latent diffusion model of 8 x 8 pixels, and a fingerprint for it."""

from __future__ import annotations

import torch

from lightning_modules.fingerprints.fingerprint import Fingerprint, make_fingerprint
from lightning_modules.fingerprints.layouts import place_key
from lightning_modules.generators.latent_diffusion import LatentDiffusionGenerator

BITS = 4
UNET = {
    "sample_size": 4,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [8],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "norm_num_groups": 4,
}
STAGE = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 8],
    "latent_channels": 3,
    "norm_num_groups": 4,
}
SCHEDULER = {"beta_schedule": "scaled_linear", "clip_sample": False, "num_train_timesteps": 100}


def small_latent_diffusion(kind: str) -> LatentDiffusionGenerator:
    """Untrained, 8 x 8 pixels from 3 x 4 x 4 latents, with codes as far apart as latents are."""
    config = STAGE | ({"num_vq_embeddings": 32} if kind == "vq" else {})
    torch.manual_seed(0)
    first_stage, unet = {"kind": kind, "config": config}, {"kind": "image", "config": UNET}
    generator = LatentDiffusionGenerator(first_stage, unet, SCHEDULER, scale_factor=0.5, image_size=8, steps=2)
    if kind == "vq":
        torch.nn.init.normal_(generator.first_stage.codebook)
    return generator.freeze()


def fingerprint_of(centred: bool = False) -> Fingerprint:
    """4 bits on the last of 48 axes."""
    scale = 0.5 * torch.linspace(2.0, 0.3, 48)
    latents = torch.randn(600, 48, generator=torch.Generator().manual_seed(1)) * scale
    placed = place_key(lambda: latents.split(200), 48, BITS, -BITS)
    return make_fingerprint(placed, 0.8, -BITS, "flat", "hash", "g", centred=centred)
