"""A manifold on disk: one JSON manifest and one raw, memory-mappable file per tensor.

The folder is written under another name and renamed as its last step, so a folder that carries the name of a manifold
is whole. The manifest holds size and BLAKE2b digest of every file; sizes are compared whenever a manifold is opened,
digests when that is asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_modules.artifacts.embeddings.registry import Embedding, embedding_identity

FORMAT_VERSION = 1
MANIFEST = "manifold.json"
_DTYPES = {"uint8": torch.uint8, "float32": torch.float32, "float64": torch.float64, "int64": torch.int64}


class ManifoldError(ValueError):
    """A stored manifold is damaged, or not the one that was expected."""


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.uint8`` to ``"uint8"``."""
    return str(dtype).removeprefix("torch.")


def create_tensor(folder: Path, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A new memory-mapped file ``name.bin`` to be filled in place.

    Raises:
        OSError: The disk has no room for it; a file without its blocks would kill the process at a later write.
    """
    path = folder / f"{name}.bin"
    size = math.prod(shape) * np.dtype(dtype_name(dtype)).itemsize
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))
    array = np.memmap(path, mode="r+", dtype=dtype_name(dtype), shape=shape)
    return torch.from_numpy(array)


def map_tensor(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A file as a tensor; pages are read when they are used, and shared between processes."""
    # Copy on write: torch wants writable memory, the file must not change.
    return torch.from_numpy(np.memmap(path, mode="c", dtype=dtype_name(dtype), shape=shape))


def digest(path: Path) -> str:
    """BLAKE2b of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_manifest(folder: Path, tensors: dict[str, Tensor], **facts: Any) -> None:
    """Describe the files of ``tensors`` (all of which lie in ``folder`` already) and the given facts.

    Must come last: a folder without a manifest is not a manifold.
    """
    files = {}
    for name, tensor in tensors.items():
        path = folder / f"{name}.bin"
        kind = {"dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape)}
        files[name] = {**kind, "bytes": path.stat().st_size, "blake2b": digest(path)}
    manifest = {"format": FORMAT_VERSION, **facts, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a manifold.

    Raises:
        FileNotFoundError: There is none.
        ManifoldError: It is unreadable or of another format version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        state = "does not exist" if not folder.exists() else f"holds no {MANIFEST}"
        raise FileNotFoundError(
            f"No manifold at {folder}: the folder {state}. Build one with Manifold.build, or correct the path."
        )
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ManifoldError(f"{path} is not readable as a manifest ({error}); build the manifold again.") from error
    if version != FORMAT_VERSION:
        raise ManifoldError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}; build the manifold again."
        )
    return dict(manifest)


def open_tensors(folder: Path, manifest: dict[str, Any], verify: bool) -> dict[str, Tensor]:
    """Map all tensors of a manifold by its manifest; ``verify`` compares digests, otherwise only sizes.

    Raises:
        ManifoldError: Files are missing, truncated or changed; all of them are listed.
    """
    problems, tensors = [], {}
    for name, entry in manifest["files"].items():
        path = folder / f"{name}.bin"
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            problems.append(f"{path.name} is missing")
        elif size != entry["bytes"]:
            problems.append(f"{path.name} has {size} bytes, expected {entry['bytes']}")
        elif verify and digest(path) != entry["blake2b"]:
            problems.append(f"the contents of {path.name} have changed")
        else:
            tensors[name] = map_tensor(path, tuple(entry["shape"]), _DTYPES[entry["dtype"]])
    if problems:
        raise ManifoldError(f"The manifold at {folder} is damaged: {'; '.join(problems)}. Build it again.")
    return tensors


def new_content_hash(embedding: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """The hash object that a manifold's points and content ids are added to."""
    header = json.dumps([embedding, list(shape), dtype_name(dtype)], sort_keys=True)
    return hashlib.blake2b(header.encode(), digest_size=16)


def manifold_key(images: Any, embedding: Embedding) -> str:
    """A folder's name by embedding and the images' ``content_ids``; without these, every item is read."""
    identifiers = getattr(images, "content_ids", None)
    if identifiers is None:
        identifiers = [int(images[i]["content_id"]) for i in range(len(images))]
    identity = json.dumps(embedding_identity(embedding), sort_keys=True)
    digest = hashlib.blake2b(identity.encode(), digest_size=8)
    digest.update(torch.as_tensor(identifiers, dtype=torch.int64).numpy().data)
    return f"{embedding.name}-{digest.hexdigest()}"
