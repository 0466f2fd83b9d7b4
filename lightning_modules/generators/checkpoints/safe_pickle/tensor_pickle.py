"""Reading the tensors of a torch file or a pickle without running anything that is in it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_modules.generators.checkpoints.safe_pickle.machine import PickledGlobal, PickledObject, shown
from lightning_modules.generators.checkpoints.safe_pickle.torch_files import read_stream, read_zip
from lightning_modules.generators.checkpoints.stored import CheckpointError, file_type

__all__ = ["PickledGlobal", "PickledObject", "module_tensors", "read_tensor_pickle", "shown"]

MAX_DEPTH = 64
MAX_TENSORS = 100_000


def read_tensor_pickle(path: Path) -> Any:
    """Read a torch file (zip, or the older stream) or a bare pickle as tensors and plain containers.

    Nothing is imported or executed on the word of the file. Parameters become tensors, subclasses of dict become dicts,
    objects of known harmless classes become `PickledObject` records, names of such classes `PickledGlobal`. Tensors of
    a zip file or a pickle may be views of the file, read when they are used.

    Args:
        path: the file.

    Returns:
        What the file holds, mostly a dict.

    Raises:
        CheckpointError: no such file, no such format, a truncated or damaged file, a tensor outside its storage, or a
            global that is not data (named).
    """
    refuse_other_types(path)
    with path.open("rb") as file:
        # a private mapping: pages are read when they are used, and no write reaches the file
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = content[:512]
    if start.startswith(b"PK\x03\x04"):
        return read_zip(content, path)
    if start[257:262] == b"ustar":
        raise CheckpointError(f"{path.name}: found a tar archive; unpack it, or save the state dict with today's torch")
    kind = file_type(path)
    other = f"{path.name}: found a {kind} file, expected a checkpoint (.pt, .pkl, .ckpt or .safetensors)"
    if kind not in ("pickle", "text", "safetensors"):
        raise CheckpointError(other)
    try:
        return read_stream(content, path.name, len(content))
    except CheckpointError as error:
        if kind == "text" and "truncated or damaged" in str(error):
            raise CheckpointError(other) from error
        raise


def refuse_other_types(path: Path) -> None:
    """Refuse what downloads leave in the place of a file of weights.

    Raises:
        CheckpointError: no such file, an empty one, a Git LFS pointer, or a web page.
    """
    if not path.is_file():
        raise CheckpointError(f"found no file {path}, expected a checkpoint; check the path")
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise CheckpointError(f"{path.name}: found an empty file, expected a checkpoint; fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path.name}: found a Git LFS pointer, not the file itself; run `git lfs pull` for it")
    if start.lstrip()[:1] == b"<" and start[8:9] != b"{":  # safetensors may begin so, by the length of their header
        raise CheckpointError(f"{path.name}: found a web page, expected a checkpoint; the download failed, repeat it")


def module_tensors(record: PickledObject) -> dict[str, Tensor]:
    """Parameters and buffers of a pickled module and of all modules in it, under the names its state dict would have.

    Args:
        record: an object whose state holds `_parameters`, `_buffers` and `_modules`.

    Raises:
        CheckpointError: modules that hold themselves, or more tensors than a network has.
    """
    tensors: dict[str, Tensor] = {}
    visits = 0

    def walk(module: Any, prefix: str, depth: int) -> None:
        nonlocal visits
        visits += 1
        state = module.state if isinstance(module, PickledObject) else None
        if state is None:
            return
        if depth > MAX_DEPTH or not isinstance(state, dict):
            raise CheckpointError(f"found {prefix or record.class_name}: modules nested without end, or without state")
        for group in ("_parameters", "_buffers"):
            for name, value in _items(state, group):
                if isinstance(value, Tensor):
                    tensors[f"{prefix}{name}"] = value
        if max(len(tensors), visits) > MAX_TENSORS:
            raise CheckpointError(
                f"found more than {MAX_TENSORS} tensors or modules in {record.class_name}, expected a network"
            )
        for name, child in _items(state, "_modules"):
            walk(child, f"{prefix}{name}.", depth + 1)

    walk(record, "", 0)
    return tensors


def _items(state: dict[Any, Any], group: str) -> list[tuple[Any, Any]]:
    members = state.get(group, {})
    if not isinstance(members, dict):
        raise CheckpointError(f"found {group} that is a {type(members).__name__}, expected a dict of names")
    return list(members.items())
