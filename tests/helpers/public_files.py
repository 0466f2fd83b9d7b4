"""Files as the two public implementations write them, with seeded weights: names, shapes and containers by hand."""

from __future__ import annotations

import argparse
import itertools
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seeded_weights import filled
from torch import Tensor, nn

Shapes = dict[str, tuple[int, ...]]


def channels_at(size: int, base: int = 32768, maximum: int = 512) -> int:
    """Channels of config-f."""
    return min(base // size, maximum)


def sizes_up_to(size: int) -> list[int]:
    """4, 8, ... size."""
    return [2**level for level in range(2, size.bit_length())]


def rosinality_state(size: int, width: int = 512, depth: int = 8) -> dict[str, Tensor]:
    """State dict of a rosinality generator with `width`-dimensional latents and at most `width` channels."""
    shapes: Shapes = {}
    filters: dict[str, Tensor] = {}
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) / 64.0 * 4.0

    def conv(name: str, inputs: int, outputs: int, kernel_size: int) -> None:
        shapes[f"{name}.conv.weight"] = (1, outputs, inputs, kernel_size, kernel_size)
        shapes[f"{name}.conv.modulation.weight"] = (inputs, width)
        shapes[f"{name}.conv.modulation.bias"] = (inputs,)

    def styled(name: str, inputs: int, outputs: int) -> None:
        conv(name, inputs, outputs, 3)
        shapes[f"{name}.noise.weight"] = (1,)
        shapes[f"{name}.activate.bias"] = (outputs,)

    for layer in range(1, depth + 1):
        shapes |= {f"style.{layer}.weight": (width, width), f"style.{layer}.bias": (width,)}
    widths = [channels_at(s, maximum=width) for s in sizes_up_to(size)]
    shapes["input.input"] = (1, widths[0], 4, 4)
    styled("conv1", widths[0], widths[0])
    conv("to_rgb1", widths[0], 3, 1)
    shapes |= {"to_rgb1.bias": (1, 3, 1, 1), "noises.noise_0": (1, 1, 4, 4)}
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        styled(f"convs.{2 * i}", before, after)
        filters[f"convs.{2 * i}.conv.blur.kernel"] = kernel
        styled(f"convs.{2 * i + 1}", after, after)
        conv(f"to_rgbs.{i}", after, 3, 1)
        shapes[f"to_rgbs.{i}.bias"] = (1, 3, 1, 1)
        filters[f"to_rgbs.{i}.upsample.kernel"] = kernel
        for half in (1, 2):
            shapes[f"noises.noise_{2 * i + half}"] = (1, 1, 8 * 2**i, 8 * 2**i)
    return filled(shapes) | filters


def write_rosinality(path: Path, state: dict[str, Tensor], **extra: Any) -> Path:
    """A training checkpoint: the averaged generator beside optimiser state and the command line's Namespace."""
    weight = nn.Parameter(torch.zeros(2))
    optimiser = torch.optim.Adam([weight])
    weight.sum().backward()
    optimiser.step()
    content = {"g_ema": state, "g_optim": optimiser.state_dict(), "args": argparse.Namespace(size=256, lr=0.002)}
    torch.save(content | extra, path)
    return path


def nvidia_state(size: int, width: int = 512, depth: int = 8, image_channels: int = 3) -> dict[str, Tensor]:
    """State dict of an NVIDIA generator with `width`-dimensional latents and at most `width` channels."""
    shapes: Shapes = {f"mapping.fc{i}.weight": (width, width) for i in range(depth)}
    shapes |= {f"mapping.fc{i}.bias": (width,) for i in range(depth)} | {"mapping.w_avg": (width,)}
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8.0
    filters: dict[str, Tensor] = {}
    before = channels_at(4, maximum=width)
    shapes["synthesis.b4.const"] = (before, 4, 4)
    for s in sizes_up_to(size):
        after = channels_at(s, maximum=width)
        block = f"synthesis.b{s}"
        filters[f"{block}.resample_filter"] = torch.outer(taps, taps)
        layers = [("conv1", after, after)] if s == 4 else [("conv0", before, after), ("conv1", after, after)]
        for layer, inputs, outputs in layers:
            name = f"{block}.{layer}"
            filters[f"{name}.resample_filter"] = torch.outer(taps, taps)
            shapes |= {
                f"{name}.weight": (outputs, inputs, 3, 3),
                f"{name}.bias": (outputs,),
                f"{name}.noise_const": (s, s),
                f"{name}.noise_strength": (),
                f"{name}.affine.weight": (inputs, width),
                f"{name}.affine.bias": (inputs,),
            }
        shapes |= {
            f"{block}.torgb.weight": (image_channels, after, 1, 1),
            f"{block}.torgb.bias": (image_channels,),
            f"{block}.torgb.affine.weight": (after, width),
            f"{block}.torgb.affine.bias": (after,),
        }
        before = after
    return filled(shapes) | filters


def write_nvidia(path: Path, state: dict[str, Tensor], clamp: float | None = 256, **overrides: Any) -> Path:
    """A network pickle: persistent objects with embedded source, which would raise if it were run."""
    library = types.ModuleType("torch_utils")
    persistence = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
        raise AssertionError("the file's code was run")

    class Persistent:
        def __init__(self, class_name: str, state: dict[str, Any]) -> None:
            self.class_name, self.state = class_name, state

        def __reduce__(self) -> Any:
            meta = {
                "type": "class",
                "version": 4,
                "module_src": "raise RuntimeError('the file ran its own source')",
                "class_name": self.class_name,
                "state": self.state,
            }
            return _reconstruct_persistent_obj, (meta,)

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    modules = {"torch_utils": library, "torch_utils.persistence": persistence}

    def module(prefix: str) -> Persistent:
        inside = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
        own = {name: tensor for name, tensor in inside.items() if "." not in name}
        buffers = {name for name in own if name in ("noise_const", "resample_filter", "w_avg")}
        children = list(OrderedDict.fromkeys(name.split(".")[0] for name in inside if "." in name))
        attributes: dict[str, Any] = {
            "training": False,
            "_parameters": OrderedDict((n, nn.Parameter(t)) for n, t in own.items() if n not in buffers),
            "_buffers": OrderedDict((n, own[n]) for n in own if n in buffers),
            "_modules": OrderedDict((child, module(f"{prefix}{child}.")) for child in children),
            "weight_gain": np.float64(0.125),
        }
        inner = prefix.removeprefix(overrides.get("prefix", ""))
        if inner.endswith(("conv0.", "conv1.")):
            attributes["conv_clamp"] = clamp
        if inner.count(".") == 2 and inner.startswith("synthesis.b"):
            attributes["architecture"] = overrides.get("architecture", "skip")
        if inner.startswith("mapping.fc"):
            attributes["bias_gain"] = 0.01
        return Persistent(overrides.get("class_name", "Generator"), attributes)

    replaced = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        with path.open("wb") as file:
            pickle.dump({"G": None, "D": None, "G_ema": module(""), "augment_pipe": None}, file)
    finally:
        for name, before in replaced.items():
            if before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = before
    return path
