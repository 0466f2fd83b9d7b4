"""Weights that follow from a parameter's name alone, so that two implementations can be filled alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn


def seeded_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 values from the hash of the name."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    values = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(np.asarray(values))


def seeded_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A plausible weight for a name of the rosinality or the NVIDIA implementation of StyleGAN2."""
    value = seeded_tensor(name, shape)
    if name.endswith("bias"):
        if name.startswith(("style.", "mapping.")):
            return value * 10.0  # used times 0.01
        return value * 0.1 + float("modulation" in name or "affine" in name)
    if name.startswith(("style.", "mapping.fc")):
        return value * 100.0  # used times 0.01
    if name.endswith(("noise.weight", "noise_strength")):
        return value * 0.2
    return value


def fill(module: nn.Module) -> None:
    """Fill a public implementation's parameters and noise buffers, leaving its filters alone."""
    for name, tensor in module.state_dict().items():
        if "kernel" not in name and "resample_filter" not in name:
            tensor.copy_(seeded_weight(name, tuple(tensor.shape)))


def filled(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The state dict of a public implementation with those shapes, without its filters."""
    return {name: seeded_weight(name, shape) for name, shape in shapes.items()}
