"""Reading StyleGAN2 checkpoints of NVIDIA's stylegan2-ada-pytorch (`.pkl` with `G_ema`): tensors, never code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_modules.common.weights import without_prefixes
from lightning_modules.generators.checkpoints.families import refuse_other_families
from lightning_modules.generators.checkpoints.safe_pickle import PickledObject, module_tensors, read_tensor_pickle
from lightning_modules.generators.checkpoints.stored import CheckpointError, StoredGenerator
from lightning_modules.generators.stylegan2.checkpoint_tensors import (
    NO_MAPS,
    ForeignTensors,
    build_skeleton,
    measured_mean,
)

STYLED = {
    "conv.weight": "weight",
    "conv.affine.weight": "affine.weight",
    "conv.affine.bias": "affine.bias",
    "noise_strength": "noise_strength",
    "bias": "bias",
    "noise_map": "noise_const",
}
NOISE = ("noise_strength", "noise_map")
"""Tensors of a layer that a network trained without noise does not have."""
TO_IMAGE = {ours: theirs for ours, theirs in STYLED.items() if ours not in NOISE}


def read_nvidia(path: Path) -> StoredGenerator:
    """Read the averaged generator of a network pickle; the source code embedded in the file is never run.

    It must be unconditional and of the `skip` architecture that config-f has.
    """
    content = read_tensor_pickle(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("G_ema"), PickledObject):
        keys = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(
            f"{path.name}: found {keys}, expected 'G_ema' of a network pickle of stylegan2-ada-pytorch; give the .pkl "
            "that its training wrote"
        )
    network = _unwrapped(content["G_ema"])
    state, prefixes = without_prefixes(module_tensors(content["G_ema"]))
    refuse_other_families(state, f"{path.name}: found", network.class_name)
    foreign = ForeignTensors(state, path.name)

    powers = [2**level for level in range(2, 11)]
    sizes = [size for size in powers if f"synthesis.b{size}.conv1.weight" in foreign.tensors]
    depth = foreign.count("mapping.fc{}.weight")
    convs = _convolutions(sizes)
    held = {part: foreign.holds_any(f"{conv}.{STYLED[part]}" for conv in convs) for part in NOISE}
    arguments: dict[str, Any] = {
        "image_size": max(sizes, default=0),
        "z_dim": foreign.shape("mapping.fc0.weight")[1],
        "w_dim": foreign.shape(f"mapping.fc{depth - 1}.weight")[0],
        "mapping_layers": depth,
        "channels": [foreign.shape(f"synthesis.b{size}.conv1.weight")[0] for size in sizes],
        "image_channels": foreign.shape(f"synthesis.b{max(sizes, default=4)}.torgb.weight")[0],
        "mapping_lr_multiplier": float(_setting(network, ("mapping", "fc0"), "bias_gain", 0.01)),
        "clamp": _setting(network, ("synthesis", "b4", "conv1"), "conv_clamp", None),
        "resample_filter": foreign.resample_filter("resample_filter"),
        "scale_before_demodulation": False,
        "noise_buffers": held["noise_map"],
    }
    for size in sizes:
        kind = _setting(network, ("synthesis", f"b{size}"), "architecture", "skip")
        if kind != "skip":
            raise CheckpointError(f"{path.name}: found architecture {kind!r} at {size} px, expected 'skip' (config-f)")
    skeleton = build_skeleton(arguments, path.name)
    shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    every = _names(sizes, depth, convs)
    names = {ours: theirs for ours, theirs in every.items() if held.get(ours.rpartition(".")[2], True)}
    measured = "mapping.w_avg" not in foreign.tensors  # a mapping trained without a mean for truncation
    if measured:
        del names["mapping.mean"]
    tensors = {name: foreign.take(source, shapes[name]) for name, source in names.items()}
    tensors["synthesis.kernel"] = skeleton.synthesis.kernel
    foreign.check_all_used()
    report = [
        f"G_ema: {len(foreign.used)} of {len(foreign.tensors)} tensors matched",
        *prefixes,
        f"feature clamp: {arguments['clamp']}; computed in single precision throughout",
    ]
    if not held["noise_strength"]:
        tensors |= {f"synthesis.convs.{i}.noise_strength": torch.zeros(()) for i in range(len(convs))}
        report.append("noise: none in the file, the network was trained without; every noise gives the same images")
    elif not held["noise_map"]:
        report.append(NO_MAPS)
    if measured:
        skeleton.load_state_dict({**tensors, "mapping.mean": skeleton.mapping.mean})
        tensors["mapping.mean"], note = measured_mean(skeleton)
        report.append(note)
    aside = [str(key) for key in content if key != "G_ema"]
    if aside:
        report.append(f"left aside: {', '.join(aside)}, and the source code in the file, which was not run")
    return StoredGenerator("stylegan2", skeleton.arguments, tensors, {"format": "stylegan2-ada-pytorch"}, tuple(report))


def _unwrapped(network: PickledObject) -> PickledObject:
    """The generator inside modules around it, whose names are the prefix that all its tensors share."""
    modules = network.state.get("_modules") if isinstance(network.state, dict) else None
    if not isinstance(modules, dict) or "synthesis" in modules:
        return network
    held = [child for child in modules.values() if isinstance(child, PickledObject) and module_tensors(child)]
    return _unwrapped(held[0]) if len(held) == 1 else network


def _convolutions(sizes: list[int]) -> list[str]:
    """Their names of the styled convolutions, in order."""
    return ["synthesis.b4.conv1"] + [f"synthesis.b{size}.conv{half}" for size in sizes[1:] for half in (0, 1)]


def _names(sizes: list[int], depth: int, convs: list[str]) -> dict[str, str]:
    """Our names to theirs, for every tensor they store besides the filters."""
    names = {"mapping.mean": "mapping.w_avg", "synthesis.constant": "synthesis.b4.const"}
    for i in range(depth):
        names |= {f"mapping.layers.{i}.{part}": f"mapping.fc{i}.{part}" for part in ("weight", "bias")}
    for i, theirs in enumerate(convs):
        names |= {f"synthesis.convs.{i}.{ours}": f"{theirs}.{name}" for ours, name in STYLED.items()}
    for i, size in enumerate(sizes):
        names |= {f"synthesis.to_images.{i}.{o}": f"synthesis.b{size}.torgb.{name}" for o, name in TO_IMAGE.items()}
    return names


def _setting(network: PickledObject, path: tuple[str, ...], name: str, default: Any) -> Any:
    """A plain attribute of a submodule, as the pickle recorded it."""
    state: Any = network.state
    for part in path:
        child = state.get("_modules", {}).get(part)
        if child is None:
            return default
        state = child.state
    return state.get(name, default)
