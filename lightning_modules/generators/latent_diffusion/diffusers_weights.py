"""The weights of one part of a folder in diffusers' format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.generators.checkpoints.stored import CheckpointError
from lightning_modules.generators.checkpoints.tensor_pickle import read_tensor_pickle
from lightning_modules.generators.latent_diffusion.files import read_safetensors
from lightning_modules.generators.latent_diffusion.renaming import Rename, keep, to_linear

WEIGHTS = "diffusion_pytorch_model"
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Layers of attention and what folders written before 2023 call them."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: no such file, or something else in it.
    """
    if not path.is_file():
        raise CheckpointError(f"found no {path}, expected it in a diffusers folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"found {path} unreadable: {error}; expected JSON") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"found {type(content).__name__} in {path}, expected a JSON object")
    return content


def folder_weights(folder: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """Read the tensors of one part, and say which files hold them: safetensors, whole or in shards, or a state dict.

    Raises:
        CheckpointError: no weights, or a file that is not whole or holds more than tensors.
    """
    for variant in ("", ".fp16"):
        whole, index = folder / f"{WEIGHTS}{variant}.safetensors", folder / f"{WEIGHTS}.safetensors.index{variant}.json"
        if whole.is_file():
            return read_safetensors(whole), [whole]
        if index.is_file():
            files = sorted({folder / Path(file).name for file in read_json(index)["weight_map"].values()})
            return {name: tensor for file in files for name, tensor in read_safetensors(file).items()}, files
    pickled = folder / f"{WEIGHTS}.bin"
    if not pickled.is_file():
        raise CheckpointError(f"found no {WEIGHTS}.safetensors in {folder}, expected the weights there")
    content = read_tensor_pickle(pickled)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"found something other than tensors in {pickled}, expected a state dict")
    return content, [pickled]


def folder_renames(content: dict[str, Tensor], module: torch.nn.Module, folder: Path) -> list[Rename]:
    """List a part's tensors: each under its own name, or under the one that attention had in older folders.

    Args:
        content: the tensors of the part.
        module: the network they are for.
        folder: the part, for messages.

    Raises:
        CheckpointError: a tensor that the network has no place for.
    """
    renames = []
    for name, tensor in module.state_dict().items():
        source = name
        if name not in content:
            for new, old in OLD_NAMES.items():
                source = source.replace(f".{new}.", f".{old}.")
        attention = any(f".{layer}." in name for layer in OLD_NAMES)
        renames.append(Rename(source, (name,), to_linear if attention and tensor.ndim == 2 else keep))
    rest = sorted(set(content) - {one.source for one in renames})
    if rest:
        raise CheckpointError(
            f"found tensor {rest[0]!r} and {len(rest) - 1} others in {folder} that its config has no place for, "
            "expected none; is it this checkpoint's config?"
        )
    return renames
