"""Tiny generators of 32 px and configs of their fingerprints, for tests that run the whole command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from dotted_settings import grouped

from lightning_modules.generators.checkpoints.own_file import write_generator
from lightning_modules.generators.checkpoints.stored import StoredGenerator
from lightning_modules.generators.latent_diffusion import LatentDiffusionGenerator
from lightning_modules.generators.stylegan2 import StyleGAN2Generator

MODULE = "lightning_modules.latent_fingerprint.LatentFingerprint"
BITS = 8

VQ = {
    "first_stage": {
        "kind": "vq",
        "config": {
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "block_out_channels": [8, 8, 8],
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
    "image_size": 32,
    "steps": 2,
}


def write_stylegan2(path: Path, seed: int = 0, size: int = 32) -> str:
    """A StyleGAN2 of 16 latent coordinates whose noise maps are seen in its images."""
    torch.manual_seed(seed)
    generator = StyleGAN2Generator(size, 12, 16, 2, [8] * (size.bit_length() - 2))
    state = dict(generator.state_dict())
    for name in state:
        if name.endswith("noise_strength"):
            state[name] = torch.full_like(state[name], 0.2)
    write_generator(StoredGenerator("stylegan2", generator.arguments, state, {"format": "test"}), path)
    return str(path)


def write_vq(path: Path, seed: int = 0) -> str:
    """A latent diffusion of 192 latent coordinates with vector quantisation."""
    torch.manual_seed(seed)
    generator = LatentDiffusionGenerator(**VQ)
    write_generator(
        StoredGenerator("latent_diffusion", generator.arguments, generator.state_dict(), {"format": "test"}), path
    )
    return str(path)


def write_config(folder: Path, generator: str, **changes: Any) -> Path:
    """A config of a run of seconds; changes go to the settings of the module by dotted name, those in `data` to its."""
    data = {"train_images": 64, "val_images": 12, "batch_size": 16, "test_images": 20, "negative_images": 40}
    data |= {"reals": "fashion_sample"} | changes.pop("data", {})
    module = {"generator": generator, "key.bits": BITS, "key.shift": -BITS, "key.sigma": 8.0, "key.fit_latents": 300}
    module |= {
        "training.backbone": "test_resnet",
        "training.stem": "small",
        "training.attack": "identity",
        "training.learning_rate": 3e-3,
        "training.unmarked_images": 0,
    }
    module |= {"test_attacks": ["jpeg_50"], "test.other_generator": "gan-dcgan"} | changes
    config = {
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_progress_bar": False}
        | {"enable_model_summary": False},
        "model": {"class_path": MODULE, "init_args": grouped(module)},
        "data": {"class_path": "datamodules.SampleNumbersDataModule", "init_args": data},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def read_metrics(run: Path) -> dict[str, dict[str, Any]]:
    """`metrics.json` of a run."""
    return json.loads((run / "metrics.json").read_text())


def read_rows(run: Path) -> list[dict[str, Any]]:
    """`rows.jsonl` of a run."""
    return [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
