"""Convert any readable checkpoint to our own file: what `evaluate.py convert` does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_modules.common.files import check_file
from lightning_modules.generators.checkpoints.kinds import build
from lightning_modules.generators.checkpoints.load import read_generator
from lightning_modules.generators.checkpoints.own_file import write_generator
from lightning_modules.generators.checkpoints.stored import CheckpointError


def convert(
    source: str | Path,
    out: Path,
    kind: str = "auto",
    licence: str | None = None,
    half: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Read a checkpoint, build its generator to be sure that everything fits, and write it to our own file.

    Args:
        source: anything `load_generator` takes.
        out: the new file, `.safetensors`.
        kind: `auto`, or the kind it must be.
        licence: a note on what may be done with the weights, kept in the manifest.
        half: store the numbers in half precision.
        force: replace a file that is there.

    Returns:
        The manifest.

    Raises:
        CheckpointError: a source that cannot be read, or an output that cannot be written.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(f"found the output {out}, expected a name that ends in .safetensors")
    if not out.parent.is_dir():
        raise CheckpointError(f"found no folder {out.parent} for the output; make it first")
    if out.exists() and not force:
        raise CheckpointError(f"found {out} there already; choose another name, or replace it with --force")
    check_file(out, "OUT, the second argument")
    stored = read_generator(source, kind)
    build(stored)
    if licence is not None:
        stored = replace(stored, origin={**stored.origin, "licence": licence})
    return write_generator(stored, out, half)
