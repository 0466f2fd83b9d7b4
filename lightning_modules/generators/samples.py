"""Sample sheets, as shown in the documentation.

python -m lightning_modules.generators.samples OUT [SOURCE ...] [--seed 0] [--images 64]

A SOURCE is a bundled one or a folder of images; without any, all bundled ones are shown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_modules.common.files import PlaceError, check_folder
from lightning_modules.common.shipped import program
from lightning_modules.generators.bundled import bundled_sources, load_bundled
from lightning_modules.generators.sampling import BLOCK, synthesize_block
from lightning_modules.generators.sheet import save_sheet


def first_samples(source: str, n: int, seed: int) -> Tensor:
    """Return samples 0 .. n-1 of a bundled source as uint8 `(n, 3, H, W)`."""
    generator = load_bundled(source)
    return torch.cat([synthesize_block(generator, seed, start) for start in range(0, n, BLOCK)])[:n]


def first_files(folder: Path, n: int) -> Tensor:
    """Return the first n PNG files of a folder by name as uint8 `(n, 3, H, W)`.

    Raises:
        FileNotFoundError: no PNG file in the folder.
    """
    paths = sorted(folder.glob("*.png"))[:n]
    if not paths:
        raise FileNotFoundError(f"found no *.png in {folder}, expected a folder of a GM data set")
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1))
    return torch.stack(images)


def main(arguments: list[str] | None = None) -> None:
    """Write `OUT/samples_<source>.png` for each source."""
    parser = argparse.ArgumentParser(
        prog=program("samples", "lightning_modules.generators.samples"), description="Write sample sheets."
    )
    parser.add_argument("out", type=Path, help="folder of the sheets")
    parser.add_argument("sources", nargs="*", help="bundled sources or folders of images; default: all bundled ones")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents")
    parser.add_argument("--images", type=int, default=64, help="images on a sheet, the first ones")
    given = parser.parse_args(arguments)
    try:
        check_folder(given.out, "OUT, the first argument")
    except PlaceError as error:
        parser.error(str(error))
    for source in given.sources or bundled_sources():
        folder = Path(source)
        images = (
            first_files(folder, given.images) if folder.is_dir() else first_samples(source, given.images, given.seed)
        )
        path = given.out / f"samples_{folder.name}.png"
        save_sheet(images, path)
        print(path)


if __name__ == "__main__":
    main()
