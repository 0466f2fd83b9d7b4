"""Convert any readable checkpoint to our own file, or show what such a file holds.

python -m lightning_modules.generators.checkpoints.convert network.pkl cats.safetensors --licence "non-commercial"
python -m lightning_modules.generators.checkpoints.convert --show faces.safetensors
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.common.files import check_file, describe_place_error
from lightning_modules.common.shipped import program
from lightning_modules.generators.checkpoints.kinds import KINDS, build
from lightning_modules.generators.checkpoints.load import read_generator
from lightning_modules.generators.checkpoints.own_file import read_manifest, write_generator
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


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Run the command; prints the manifest and returns it."""
    parser = argparse.ArgumentParser(
        prog=program("convert"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "source", nargs="?", help="a .pt, .pkl, model.ckpt, diffusers folder, generator file, or hf://ORG/NAME"
    )
    parser.add_argument("out", nargs="?", type=Path, help="the new .safetensors file")
    parser.add_argument("--kind", default="auto", choices=["auto", *sorted(KINDS)], help="what it must be")
    parser.add_argument("--licence", help="a note on what may be done with the weights, kept in the file")
    parser.add_argument("--half", action="store_true", help="store numbers in half precision: half the size, rounded")
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the manifest of a generator file, no more")
    given = parser.parse_args(args)
    if (given.show is None) == (given.source is None) or (given.source is not None and given.out is None):
        parser.error("give a source and an output, or --show and a file")
    try:
        if given.show is not None:
            manifest = read_manifest(given.show)
        else:
            manifest = convert(given.source, given.out, given.kind, given.licence, given.half, given.force)
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"error: {describe_place_error(error) or error}\n")
        raise SystemExit(2) from None
    print(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=120), end="")
    return manifest
