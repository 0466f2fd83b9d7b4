"""Reading safetensors, and naming files by their content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightning_modules.generators.checkpoints.stored import CheckpointError
from lightning_modules.generators.checkpoints.tensor_pickle import refuse_other_types


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: a file that is none, or a truncated one.
    """
    refuse_other_types(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"found {path} unreadable: {error}; expected a whole safetensors file") from error


def file_hash(*paths: Path) -> str:
    """SHA-256 of files, one after the other, as hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while part := stream.read(2**20):
                digest.update(part)
    return digest.hexdigest()
