"""Reading StyleGAN2 checkpoints of the rosinality implementation (`.pt` with `g_ema`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.generators.checkpoints.stored import CheckpointError, StoredGenerator
from lightning_modules.generators.checkpoints.tensor_pickle import read_tensor_pickle
from lightning_modules.generators.latents import standard_normal_latents
from lightning_modules.generators.stylegan2.checkpoint_tensors import ForeignTensors
from lightning_modules.generators.stylegan2.generator import StyleGAN2Generator

MEAN_SAMPLES = 10_000
STYLED = {
    "conv.weight": "conv.weight",
    "conv.affine.weight": "conv.modulation.weight",
    "conv.affine.bias": "conv.modulation.bias",
    "noise_strength": "noise.weight",
    "bias": "activate.bias",
}
TO_IMAGE = {
    "conv.weight": "conv.weight",
    "conv.affine.weight": "conv.modulation.weight",
    "conv.affine.bias": "conv.modulation.bias",
    "bias": "bias",
}


def is_rosinality(content: Any) -> bool:
    """Whether the content of a `.pt` file looks like a checkpoint of this implementation."""
    return isinstance(content, Mapping) and ("g_ema" in content or "style.1.weight" in content)


def read_rosinality(path: Path) -> StoredGenerator:
    """Read the averaged generator of a training checkpoint, or a bare state dict; all else in the file is left aside.

    The file does not say how the mapping network's learning rate was scaled; 0.01 is assumed, as all public files have.

    Args:
        path: `.pt` file whose `g_ema` is a state dict.

    Raises:
        CheckpointError: no such file content, a tensor missing, misshapen or left over, or a global that is not data.
    """
    content = read_tensor_pickle(path)
    if not is_rosinality(content):
        keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{path.name}: found {keys}, expected 'g_ema' with the averaged generator of rosinality's StyleGAN2; "
            "give the training checkpoint itself"
        )
    state = content.get("g_ema", content)
    aside = [str(key) for key in content if key != "g_ema"] if "g_ema" in content else []
    foreign = ForeignTensors({key: value for key, value in state.items() if isinstance(value, Tensor)}, path.name)

    layers = foreign.count(r"convs\.(\d+)\.conv\.weight") + 1 if "convs.0.conv.weight" in state else 1
    depth = foreign.count(r"style\.(\d+)\.weight") - 1  # style.0 normalises and has no weight
    arguments: dict[str, Any] = {
        "image_size": 2 ** ((layers + 1) // 2 + 1),
        "z_dim": foreign.shape("style.1.weight")[1],
        "w_dim": foreign.shape(f"style.{depth}.weight")[0],
        "mapping_layers": depth,
        "channels": [foreign.shape("input.input")[1]]
        + [foreign.shape(f"convs.{i}.conv.weight")[1] for i in range(1, layers - 1, 2)],
        "resample_filter": foreign.resample_filter(".kernel"),
        "scale_before_demodulation": True,
    }
    skeleton = _skeleton(arguments, path.name)
    shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    tensors = {name: foreign.take(source, shapes[name]) for name, source in _names(layers, depth, shapes).items()}
    tensors["synthesis.kernel"] = skeleton.synthesis.kernel
    report = [f"g_ema: {len(foreign.used)} of {len(foreign.tensors)} tensors matched"]
    foreign.check_all_used()
    tensors["mapping.mean"] = skeleton.mapping.mean
    skeleton.load_state_dict(tensors)
    mean, note = _mean_latent(content, skeleton)
    tensors["mapping.mean"] = mean
    report.append(note)
    report.append("mapping learning rate factor: not in the file, 0.01 as in all public files")
    if aside:
        report.append(f"left aside: {', '.join(aside)}")
    return StoredGenerator("stylegan2", arguments, tensors, {"format": "rosinality"}, tuple(report))


def _skeleton(arguments: dict[str, Any], file: str) -> StyleGAN2Generator:
    try:
        return StyleGAN2Generator(**arguments).freeze()
    except ValueError as error:
        raise CheckpointError(f"{file}: the tensors describe no StyleGAN2: {error}") from error


def _names(layers: int, depth: int, shapes: Mapping[str, Any]) -> dict[str, str]:
    """Our names to theirs, for every tensor they store besides the filters."""
    names = {"synthesis.constant": "input.input"}
    for i in range(depth):
        names |= {f"mapping.layers.{i}.{part}": f"style.{i + 1}.{part}" for part in ("weight", "bias")}
    for i in range(layers):
        theirs = "conv1" if i == 0 else f"convs.{i - 1}"
        names |= {f"synthesis.convs.{i}.{ours}": f"{theirs}.{name}" for ours, name in STYLED.items()}
        names[f"synthesis.convs.{i}.noise_map"] = f"noises.noise_{i}"
    for i in range((layers + 1) // 2):
        theirs = "to_rgb1" if i == 0 else f"to_rgbs.{i - 1}"
        names |= {f"synthesis.to_images.{i}.{ours}": f"{theirs}.{name}" for ours, name in TO_IMAGE.items()}
    return names


def _mean_latent(content: Mapping[str, Any], generator: StyleGAN2Generator) -> tuple[Tensor, str]:
    stored = content.get("latent_avg")
    if isinstance(stored, Tensor) and stored.numel() == generator.latent_dim:
        return stored.detach().float().reshape(-1), "latent_avg: taken as the mean for truncation"
    with torch.no_grad():
        z = standard_normal_latents(MEAN_SAMPLES, generator.z_dim, seed=0)
        mean = generator.mapping(z).double().mean(dim=0).float()
    return mean, f"mean for truncation: not in the file, measured on {MEAN_SAMPLES} latents of seed 0"
