"""Reading StyleGAN2 checkpoints of the rosinality implementation (`.pt` with `g_ema`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_modules.common.weights import NESTED, without_prefixes
from lightning_modules.generators.checkpoints.families import refuse_known
from lightning_modules.generators.checkpoints.safe_pickle import read_tensor_pickle
from lightning_modules.generators.checkpoints.stored import CheckpointError, StoredGenerator
from lightning_modules.generators.stylegan2.checkpoint_tensors import (
    NO_MAPS,
    ForeignTensors,
    build_skeleton,
    measured_mean,
)
from lightning_modules.generators.stylegan2.generator import StyleGAN2Generator

TO_IMAGE = {
    "conv.weight": "conv.weight",
    "conv.affine.weight": "conv.modulation.weight",
    "conv.affine.bias": "conv.modulation.bias",
    "bias": "bias",
}
STYLED = TO_IMAGE | {"noise_strength": "noise.weight", "bias": "activate.bias"}


def _generator(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The generator's tensors without shared prefixes, and what was taken off."""
    key = _key(content)
    state = content if key is None else content[key]
    return without_prefixes({str(key): value for key, value in state.items() if isinstance(value, Tensor)})


def _key(content: Mapping[str, Any]) -> str | None:
    """Where the generator's state dict lies; None where the file is one."""
    return next((key for key in ("g_ema", *NESTED) if isinstance(content.get(key), Mapping)), None)


def read_rosinality(path: Path) -> StoredGenerator:
    """Read the averaged generator of a training checkpoint, or a bare state dict; all else in the file is left aside.

    The file does not say how the mapping network's learning rate was scaled; 0.01 is assumed, as all public files have.
    Those written before April 2020 hold no noise maps, which the generator then has no noise `buffers` for.
    """
    content = read_tensor_pickle(path)
    if not isinstance(content, Mapping) or not ("g_ema" in content or "style.1.weight" in _generator(content)[0]):
        keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{path.name}: found {keys}, expected 'g_ema' with the averaged generator of rosinality's StyleGAN2; "
            "give the training checkpoint itself"
        )
    state, prefixes = _generator(content)
    place = _key(content)
    aside = [str(key) for key in content if key != place] if place is not None else []
    if "style.1.weight" not in state:
        refuse_known(state, path.name)
    foreign = ForeignTensors(state, path.name)

    layers = foreign.count("convs.{}.conv.weight") + 1 if "convs.0.conv.weight" in state else 1
    depth = foreign.count("style.{}.weight") - 1  # style.0 normalises and has no weight
    arguments: dict[str, Any] = {
        "image_size": 2 ** ((layers + 1) // 2 + 1),
        "z_dim": foreign.shape("style.1.weight")[1],
        "w_dim": foreign.shape(f"style.{depth}.weight")[0],
        "mapping_layers": depth,
        "channels": [foreign.shape("input.input")[1]]
        + [foreign.shape(f"convs.{i}.conv.weight")[1] for i in range(1, layers - 1, 2)],
        "resample_filter": foreign.resample_filter(".kernel"),
        "scale_before_demodulation": True,
        "noise_buffers": foreign.holds_any(f"noises.noise_{i}" for i in range(layers)),
    }
    skeleton = build_skeleton(arguments, path.name)
    shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    names = _names(layers, depth, arguments["noise_buffers"])
    tensors = {name: foreign.take(source, shapes[name]) for name, source in names.items()}
    tensors["synthesis.kernel"] = skeleton.synthesis.kernel
    report = [f"{place or 'state dict'}: {len(foreign.used)} of {len(foreign.tensors)} tensors matched", *prefixes]
    if not arguments["noise_buffers"]:
        report.append(NO_MAPS)
    foreign.check_all_used()
    tensors["mapping.mean"] = skeleton.mapping.mean
    skeleton.load_state_dict(tensors)
    tensors["mapping.mean"], note = _mean_latent(content, skeleton)
    report += [note, "mapping learning rate factor: not in the file, 0.01 as in all public files"]
    if aside:
        report.append(f"left aside: {', '.join(aside)}")
    return StoredGenerator("stylegan2", skeleton.arguments, tensors, {"format": "rosinality"}, tuple(report))


def _names(layers: int, depth: int, noise_buffers: bool) -> dict[str, str]:
    """Our names to theirs, for every tensor they store besides the filters."""
    names = {"synthesis.constant": "input.input"}
    for i in range(depth):
        names |= {f"mapping.layers.{i}.{part}": f"style.{i + 1}.{part}" for part in ("weight", "bias")}
    for i in range(layers):
        theirs = "conv1" if i == 0 else f"convs.{i - 1}"
        names |= {f"synthesis.convs.{i}.{ours}": f"{theirs}.{name}" for ours, name in STYLED.items()}
        if noise_buffers:
            names[f"synthesis.convs.{i}.noise_map"] = f"noises.noise_{i}"
    for i in range((layers + 1) // 2):
        theirs = "to_rgb1" if i == 0 else f"to_rgbs.{i - 1}"
        names |= {f"synthesis.to_images.{i}.{ours}": f"{theirs}.{name}" for ours, name in TO_IMAGE.items()}
    return names


def _mean_latent(content: Mapping[str, Any], generator: StyleGAN2Generator) -> tuple[Tensor, str]:
    stored = content.get("latent_avg")
    if isinstance(stored, Tensor) and stored.numel() == generator.latent_dim:
        return stored.detach().float().reshape(-1), "latent_avg: taken as the mean for truncation"
    return measured_mean(generator)
