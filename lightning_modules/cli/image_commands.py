"""`evaluate.py fid`, `codecs` and `sheets`: commands over folders of images.

The measures are pure and take tensors; the libraries are imported once the command line has been read.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.cli.parser import CommandParser
from lightning_modules.common.files import check_folder, write_text

if TYPE_CHECKING:
    from lightning_modules.metrics.fid_table import FrechetTable

FEATURES = "fashion_cnn, inception, inception:PATH, timm:NAME or timm:NAME:PATH"


def _add_pixel_limit(parser: CommandParser) -> None:
    help_text = "most pixels that a picture may have, by its header (default 120 million)"
    parser.add_argument("--max_image_pixels", type=int, default=120_000_000, help=help_text)


def fid(args: list[str]) -> FrechetTable:
    """Frechet distance of each source to held-out reals, as one table.

    Every row has the same n, for Frechet distances are biased upwards by an amount that depends on it; the row `reals`,
    the distance between two disjoint sets of reals of that n, shows how much of the others is that bias.
    """
    parser = CommandParser("fid", fid.__doc__)
    parser.add_argument("sources", type=Path, nargs="+", help="folders of images, one for each source")
    parser.add_argument("--reals", type=Path, required=True, help="folder of reals that no source was trained on")
    parser.add_argument("--features", default="fashion_cnn", help=FEATURES)
    parser.add_argument("--n", type=int, default=None, help="images of each source; default: all, if equally many")
    parser.add_argument("--seed", type=int, default=0, help="draws the reals")
    parser.add_argument("--center_crop", type=int, default=None, help="cut out the central square first, in pixels")
    parser.add_argument("--resize", type=int, default=None, help="scale the shorter side to that then, in pixels")
    _add_pixel_limit(parser)
    parser.add_argument("--out", type=Path, help="folder for METRIC.md, METRIC.json and the list of what was left out")
    asked = parser.parse_args(args)
    if asked.out is not None:
        check_folder(asked.out, "--out")
    from datamodules.images.image_io import path_text
    from datamodules.images.image_search import write_left_out
    from datamodules.images.pixel_path import PixelPath
    from datamodules.images.problems import DISTANCES
    from lightning_modules.cli.image_folders import ImageFolder
    from lightning_modules.metrics.extractors import build_extractor
    from lightning_modules.metrics.fid_table import frechet_table

    paths: dict[str, Path] = {}
    for folder in asked.sources:
        name = path_text(folder.resolve().name)
        if name in paths:
            raise ValueError(f"two sources are called {name!r}: {paths[name]} and {folder}; rename a folder")
        paths[name] = folder
    list_file = None if asked.out is None else asked.out / "left_out.jsonl"
    path = PixelPath(asked.center_crop, asked.resize, max_pixels=asked.max_image_pixels)
    reals = ImageFolder(asked.reals, path, DISTANCES, all_in=list_file)
    folders = {name: ImageFolder(folder, path, DISTANCES, all_in=list_file) for name, folder in paths.items()}
    left_out = [item for folder in (reals, *folders.values()) for item in folder.left_out]
    if list_file is not None and left_out:
        write_left_out(list_file, left_out)
    images = {name: folder.tensor() for name, folder in folders.items()}
    shown = sys.stderr.isatty()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: sys.stderr.write(f"warning: {message}\n")  # type: ignore[assignment]
        extractor = build_extractor(asked.features)
        table = frechet_table(images, reals.tensor(), extractor, n=asked.n, seed=asked.seed, progress=shown)
    print(table.to_markdown(), end="")
    if asked.out is not None:
        write_text(asked.out / f"{table.metric}.md", table.to_markdown())
        write_text(asked.out / f"{table.metric}.json", table.to_json())
    return table


def codecs(args: list[str]) -> None:
    """How far the differentiable JPEG is from the real codec, by quality and subsampling, as a table."""
    parser = CommandParser("codecs", codecs.__doc__)
    parser.add_argument("--images", type=Path, help="folder of images; default: scikit-learn's two photographs")
    parser.add_argument("--size", type=int, default=32, help="side of the squares in pixels (default 32)")
    _add_pixel_limit(parser)
    asked = parser.parse_args(args)
    from datamodules.images.image_io import path_text
    from datamodules.images.problems import REALS
    from lightning_modules.attacks.codec_table import as_markdown, compare_codecs, photographs, squares
    from lightning_modules.cli.image_folders import ImageFolder

    if asked.images is None:
        images, named = photographs(asked.size), "scikit-learn's photographs, halved"
    else:
        images = squares(ImageFolder(asked.images, None, REALS, max_pixels=asked.max_image_pixels), asked.size)
        named = path_text(asked.images)
    print(f"PSNR in dB, mean ± 95 %, n = {len(images)} images of {asked.size} px ({named})\n")
    print(as_markdown(compare_codecs(images)))


def sheets(args: list[str]) -> list[Path]:
    """Write `OUT/samples_<source>.png`, a sheet of the first images of each source."""
    parser = CommandParser("sheets", sheets.__doc__)
    parser.add_argument("out", type=Path, help="folder of the sheets")
    parser.add_argument("sources", nargs="*", help="bundled sources or folders of images; default: all bundled ones")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents")
    parser.add_argument("--images", type=int, default=64, help="images on a sheet, the first ones")
    parser.add_argument("--center_crop", type=int, default=None, help="cut out the central square first, in pixels")
    parser.add_argument("--resize", type=int, default=None, help="scale the shorter side to that then, in pixels")
    _add_pixel_limit(parser)
    asked = parser.parse_args(args)
    check_folder(asked.out, "OUT, the first argument")
    from datamodules.images.pixel_path import PixelPath
    from datamodules.images.problems import REALS
    from lightning_modules.cli.image_folders import ImageFolder
    from lightning_modules.generators.bundled.manifest import bundled_sources
    from lightning_modules.generators.image_writing import first_samples, save_sheet

    path = PixelPath(asked.center_crop, asked.resize, max_pixels=asked.max_image_pixels)
    written = []
    for source in asked.sources or bundled_sources():
        folder = Path(source)
        if folder.is_dir():
            images = ImageFolder(folder, path, REALS, asked.images).tensor()
        else:
            images = first_samples(source, asked.images, asked.seed)
        shown = folder.name if folder.is_dir() else source.replace("/", "-")
        written.append(asked.out / f"samples_{shown}.png")
        save_sheet(images, written[-1])
        print(written[-1])
    return written
