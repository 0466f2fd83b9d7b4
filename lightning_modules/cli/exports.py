"""`evaluate.py convert`, `export` and `export_classifier`: trained networks written as files to share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning_modules.cli.parser import CommandParser
from lightning_modules.common.files import PlaceError, check_folder, describe_place_error

_CHECKPOINT = "checkpoints/last.ckpt of a run folder"


def convert(args: list[str]) -> dict[str, Any]:
    """Convert a checkpoint to one safetensors file, or show what such a file holds; returns the manifest."""
    parser = CommandParser("convert", "Convert a checkpoint to one safetensors file, or show what such a file holds.")
    parser.add_argument(
        "source", nargs="?", help="a .pt, .pkl, model.ckpt, diffusers folder, generator file, or hf://ORG/NAME"
    )
    parser.add_argument("out", nargs="?", type=Path, help="the new .safetensors file")
    parser.add_argument("--kind", default="auto", help="what it must be: stylegan2, latent_diffusion; auto for either")
    parser.add_argument("--licence", help="a note on what may be done with the weights, kept in the file")
    parser.add_argument("--half", action="store_true", help="store numbers in half precision: half the size, rounded")
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the manifest of a generator file, no more")
    given = parser.parse_args(args)
    if (given.show is None) == (given.source is None) or (given.source is not None and given.out is None):
        parser.error("give a source and an output, or --show and a file")
    import yaml

    from lightning_modules.generators.checkpoints import load
    from lightning_modules.generators.checkpoints.own_file import read_manifest
    from lightning_modules.generators.checkpoints.stored import CheckpointError

    try:
        if given.show is not None:
            manifest = read_manifest(given.show)
        else:
            manifest = load.convert(given.source, given.out, given.kind, given.licence, given.half, given.force)
    except (CheckpointError, OSError) as error:
        sys.stderr.write(f"error: {describe_place_error(error) or error}\n")
        raise SystemExit(2) from None
    print(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=120), end="")
    return manifest


def export(args: list[str]) -> None:
    """Turn a trained small generator into a bundled source; prints its name."""
    parser = CommandParser("export", "Turn a training checkpoint into a bundled source: weights and manifest entry.")
    parser.add_argument("checkpoint", type=Path, help=_CHECKPOINT)
    parser.add_argument("out", type=Path, nargs="?", help="folder of weights and manifest; default: the shipped one")
    parser.add_argument("--images", type=int, default=0, help="samples to ship as well, a multiple of the block size")
    parser.add_argument("--licence", default="MIT", help="licence of the weights")
    parser.add_argument("--name", help="<family>-<model> of the source; default: that of the network")
    given = parser.parse_args(args)
    out = _checked(parser, given.out)
    import torch

    from lightning_modules.generators.bundled.manifest import WEIGHTS_FOLDER
    from lightning_modules.zoo.export import export

    torch.set_num_threads(1)
    print(export(given.checkpoint, out or WEIGHTS_FOLDER, given.images, given.licence, given.name))


def export_classifier(args: list[str]) -> None:
    """Write the weights of a trained Fashion-MNIST classifier; prints the file."""
    parser = CommandParser("export_classifier", "Write the weights of a trained Fashion-MNIST classifier.")
    parser.add_argument("checkpoint", type=Path, help=_CHECKPOINT)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the weights; default: the shipped one")
    given = parser.parse_args(args)
    out = _checked(parser, given.out)
    from lightning_modules.metrics.fashion_cnn import WEIGHTS_FOLDER
    from lightning_modules.zoo.fashion_classifier import export

    print(export(given.checkpoint, out or WEIGHTS_FOLDER))


def _checked(parser: CommandParser, out: Path | None) -> Path | None:
    """The folder, once it can be written to."""
    if out is not None:
        try:
            check_folder(out, "OUT, the second argument")
        except PlaceError as error:
            parser.error(str(error))
    return out
