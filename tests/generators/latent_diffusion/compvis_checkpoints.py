"""CompVis checkpoints whose weights follow from their names, and the arguments of a small generator."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from seeded import seeded_tensor

GOLDEN = Path(__file__).parent / "golden"

SMALL = {
    "first_stage": {
        "kind": "vq",
        "config": {
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
            "block_out_channels": [8, 8],
            "latent_channels": 3,
            "num_vq_embeddings": 16,
            "norm_num_groups": 4,
        },
    },
    "unet": {
        "kind": "image",
        "config": {
            "sample_size": 8,
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": [8, 8],
            "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
            "norm_num_groups": 4,
            "attention_head_dim": 4,
        },
    },
    "scheduler": {"beta_schedule": "scaled_linear", "clip_sample": False, "num_train_timesteps": 100},
    "scale_factor": 0.5,
    "image_size": 16,
    "steps": 4,
}


def averaged_name(name: str) -> str:
    """How the reference code names the average of a parameter of `model`: without dots."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def compvis_state(case: str) -> dict[str, torch.Tensor]:
    """The state dict of a reference checkpoint; `vq` has averaged weights, `kl` a measured scale."""
    shapes = json.loads((GOLDEN / f"{case}.json").read_text())
    state = {name: seeded_tensor(name, shape) for name, shape in shapes.items()}
    if case == "vq":
        for name, shape in shapes.items():
            if name.startswith("model."):
                state[averaged_name(name)] = seeded_tensor(averaged_name(name), shape)
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    else:
        state["scale_factor"] = torch.tensor(0.21)
    end = {"vq": 0.0195, "kl": 0.0155}[case]
    betas = torch.linspace(0.0015**0.5, end**0.5, 1000, dtype=torch.float64) ** 2
    return state | {"betas": betas.float(), "alphas_cumprod": (1 - betas).cumprod(0).float()}
