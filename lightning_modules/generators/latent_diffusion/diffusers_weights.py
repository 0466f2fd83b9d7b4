"""The weights of one part of a folder in diffusers' format; what cannot be read is a CheckpointError."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightning_modules.common.weights import without_prefixes
from lightning_modules.generators.checkpoints.safe_pickle import read_tensor_pickle
from lightning_modules.generators.checkpoints.stored import CheckpointError, refuse_other_types
from lightning_modules.generators.latent_diffusion.renaming import Rename, keep, to_linear


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a whole safetensors file."""
    refuse_other_types(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"found {path} unreadable: {error}; expected a whole safetensors file") from error


WEIGHTS = "diffusion_pytorch_model"
FORMATS = ("safetensors", "bin")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".onnx", ".pb", ".h5", ".gguf")
"""Endings of files that hold weights, in formats that are read here or not."""
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""Layers of attention and what folders written before 2023 call them."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object."""
    if not path.is_file():
        raise CheckpointError(f"found no {path}, expected it in a diffusers folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"found {path} unreadable: {error}; expected JSON") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"found {type(content).__name__} in {path}, expected a JSON object")
    return content


@dataclass(frozen=True, order=True)
class WeightFile:
    """A file of a part's weights, or the index of its shards; in the order in which they are preferred."""

    unusual: bool  # a variant other than full and half precision
    pickled: bool  # `.bin`, which is read as tensors and plain data alone; otherwise safetensors
    variant: str  # empty, or what the name says, such as `fp16` or `non_ema`
    index: bool  # whether it is the index of shards
    name: str


def weight_files(names: Iterable[str], bases: Sequence[str] = (WEIGHTS,)) -> list[WeightFile]:
    """Those of a part's files that hold its weights, the preferred one first: not shards, which an index names.

    Safetensors are preferred to pickles and full precision to half, but for a variant that is neither. Names of weights
    begin with one of `bases`.
    """
    found = []
    for name in names:
        base, *rest = name.split(".")
        formats = [part for part in rest if part in FORMATS]
        index = "index" in rest
        variants = [part for part in rest if part not in (*FORMATS, "index", "json")]
        if base not in bases or len(formats) != 1 or len(variants) > 1 or index != (rest[-1] == "json"):
            continue
        variant = variants[0] if variants else ""
        if "-of-" not in variant:
            found.append(WeightFile(variant not in ("", "fp16"), formats[0] == "bin", variant, index, name))
    return sorted(found)


def folder_weights(
    folder: Path, bases: Sequence[str] = (WEIGHTS,), beginnings: Collection[str] | None = None
) -> tuple[dict[str, Tensor], list[Path], list[str]]:
    """Read the tensors of one part: safetensors or a pickle, whole or in shards, in full precision or as a variant.

    Names of weights begin with one of `bases`; for `beginnings` see `without_prefixes`. Returns the tensors, the files
    that hold them, and lines for a report.
    """
    held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    candidates = weight_files(held, bases)
    if not candidates:
        others = [name for name in held if Path(name).suffix in WEIGHT_SUFFIXES or name.endswith(".index.json")]
        there = f"there lie {', '.join(others)}" if others else "there are no weights of another kind either"
        raise CheckpointError(
            f"found no {bases[0]}.safetensors in {folder}, nor one that is .bin, in shards with their index, or fp16; "
            f"{there}"
        )
    chosen, *rest = candidates
    try:
        files = _shards(folder, chosen) if chosen.index else [folder / chosen.name]
        tensors = {name: tensor for file in files for name, tensor in _read(file, chosen.pickled).items()}
    except CheckpointError as error:
        besides = f"; beside it lie {', '.join(one.name for one in rest)}: take it away to read those" if rest else ""
        raise CheckpointError(f"{folder.name}: {error}{besides}") from error
    tensors, lines = without_prefixes(tensors, beginnings)
    kind = {"": "", "fp16": ", half precision"}.get(chosen.variant, f", variant {chosen.variant}")
    names = f"{chosen.name} with {len(files)} shards" if chosen.index else chosen.name
    aside = f"; left aside: {', '.join(one.name for one in rest)}" if rest else ""
    report = [f"{len(tensors)} tensors of {names}{kind}{aside}", *lines]
    return tensors, files, [f"{folder.name}: {line}" for line in report]


def _shards(folder: Path, index: WeightFile) -> list[Path]:
    """The shards that an index names, all of them there."""
    weight_map = read_json(folder / index.name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"found no weight_map in {index.name}, expected which tensor lies in which shard")
    shards = sorted({folder / Path(file).name for file in weight_map.values()})
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f"found {len(shards) - len(missing)} of the {len(shards)} shards that {index.name} names, missing "
            f"{', '.join(missing)}; fetch {'it' if len(missing) == 1 else 'them'} into {folder}"
        )
    return shards


def _read(path: Path, pickled: bool) -> dict[str, Tensor]:
    if not pickled:
        return read_safetensors(path)
    content = read_tensor_pickle(path)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"found something other than tensors in {path}, expected a state dict")
    return content


def folder_renames(content: dict[str, Tensor], module: torch.nn.Module, folder: Path) -> list[Rename]:
    """List a part's tensors: each under its own name, or under the one that attention had in older folders."""
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
