"""The small latent diffusion model of the zoo as arguments of the generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def small_arguments(
    first_stage_channels: Sequence[int],
    latent_channels: int,
    codes: int,
    unet_channels: Sequence[int],
    layers_per_block: int,
    training_steps: int,
    sampling_steps: int,
) -> dict[str, Any]:
    """Turn the hyperparameters of `LatentDiffusion` into arguments of `LatentDiffusionGenerator`, for 32 px.

    One residual layer per resolution of the autoencoder's encoder, attention at every resolution of the U-Net.
    """
    levels = len(first_stage_channels)
    return {
        "first_stage": {
            "kind": "vq",
            "config": {
                "down_block_types": ["DownEncoderBlock2D"] * levels,
                "up_block_types": ["UpDecoderBlock2D"] * levels,
                "block_out_channels": list(first_stage_channels),
                "layers_per_block": 1,
                "latent_channels": latent_channels,
                "num_vq_embeddings": codes,
                "norm_num_groups": 8,
            },
        },
        "unet": {
            "kind": "image",
            "config": {
                "sample_size": 32 // 2 ** (levels - 1),
                "in_channels": latent_channels,
                "out_channels": latent_channels,
                "block_out_channels": list(unet_channels),
                "layers_per_block": layers_per_block,
                "down_block_types": ["AttnDownBlock2D"] * len(unet_channels),
                "up_block_types": ["AttnUpBlock2D"] * len(unet_channels),
                "norm_num_groups": 16,
                "attention_head_dim": 16,
            },
        },
        "scheduler": {
            "num_train_timesteps": training_steps,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.0015,
            "beta_end": 0.0195,
            "prediction_type": "v_prediction",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "timestep_spacing": "trailing",  # begins at the last level, which is all but pure noise
        },
        "image_size": 32,
        "steps": sampling_steps,
    }
