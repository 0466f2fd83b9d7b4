"""How far the differentiable JPEG is from the real codec: a table by quality and subsampling.

`python -m lightning_modules.attacks.codec_table` prints it as Markdown for two photographs that scikit-learn ships;
`--images FOLDER` takes yours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import sem
from scipy.stats import t as student
from sklearn.datasets import load_sample_images
from torch import Tensor

from lightning_modules.attacks.base import to_levels
from lightning_modules.attacks.jpeg import SUBSAMPLINGS, Jpeg
from lightning_modules.common.shipped import program

QUALITIES = (95, 90, 80, 70, 60, 50)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Agreement:
    """One row: mean PSNR in dB over the images, with the half width of its 95 % interval (Student).

    Attributes:
        quality: JPEG quality.
        subsampling: of the real codec; the differentiable one always has 4:2:0.
        agreement: differentiable, rounded to 8 bits, against real.
        real: real against the uncompressed image.
        differentiable: differentiable, rounded, against the uncompressed image.
    """

    quality: int
    subsampling: str
    agreement: tuple[float, float]
    real: tuple[float, float]
    differentiable: tuple[float, float]


def compare_codecs(
    images: Tensor, qualities: Sequence[int] = QUALITIES, subsamplings: Sequence[str] = SUBSAMPLINGS
) -> list[Agreement]:
    """Compress the images both ways and compare.

    Args:
        images: float32 `(n, 3, H, W)` in [0, 1]; rounded to 8 bits first.
        qualities: JPEG qualities.
        subsamplings: of the real codec.
    """
    clean = to_levels(images).float() / 255.0
    seeds = torch.zeros(len(images), dtype=torch.int64)  # the quality is fixed: nothing is drawn
    rows = []
    for subsampling in subsamplings:
        for quality in qualities:
            attack = Jpeg(quality, subsampling)
            real = attack.real(clean, seeds)
            smooth = to_levels(attack.differentiable(clean, seeds)).float() / 255.0
            pairs = ((smooth, real), (real, clean), (smooth, clean))
            means = [_mean(psnr(first, second)) for first, second in pairs]
            rows.append(Agreement(quality, subsampling, *means))
    return rows


def psnr(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each pair of images in [0, 1].

    Equal images count as one grey level of error in one value, so that a mean stays finite.

    Returns:
        float64 `(n,)` in dB.
    """
    error = (first.double() - second.double()).square().flatten(1).mean(1).clamp_min(1 / 255.0**2 / first[0].numel())
    return np.asarray(-10.0 * torch.log10(error).numpy())


def as_markdown(rows: Sequence[Agreement]) -> str:
    """Write the rows as a Markdown table."""
    lines = [
        "| subsampling of the real codec | quality | differentiable - real | real - clean | differentiable - clean |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{mean:.1f} ± {half:.1f}" for mean, half in (row.agreement, row.real, row.differentiable)]
        lines.append(f"| {row.subsampling} | {row.quality} | {' | '.join(cells)} |")
    return "\n".join(lines)


def photographs(size: int) -> Tensor:
    """Cut scikit-learn's two photographs (a temple, a flower; 640 x 427) into squares, `(n, 3, size, size)` in [0, 1].

    They are halved first, which takes away most of what an earlier compression has left in them.
    """
    halved = [Image.fromarray(photo).reduce(2) for photo in load_sample_images().images]
    if size > min(halved[0].size):
        raise ValueError(f"found --size {size}, the photographs have {min(halved[0].size)} px: take a smaller one")
    tiles = []
    for photo in halved:
        for top in range(0, photo.height - size + 1, size):
            for left in range(0, photo.width - size + 1, size):
                tiles.append(np.asarray(photo.crop((left, top, left + size, top + size))))
    return _tensor(tiles)


def read_folder(folder: Path, size: int) -> Tensor:
    """Read every image below a folder, in the order of names, cropped at its centre to a square and resized."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"found no image below {folder}, expected files that end in {', '.join(SUFFIXES)}")
    tiles = []
    for path in files:
        with Image.open(path) as file:
            image = file.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        tiles.append(np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)))
    return _tensor(tiles)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog=program("codecs", "lightning_modules.attacks.codec_table"), description=__doc__
    )
    parser.add_argument("--images", type=Path, help="folder of images; default: scikit-learn's two photographs")
    parser.add_argument("--size", type=int, default=32, help="side of the squares in pixels (default 32)")
    options = parser.parse_args(arguments)
    try:
        images = photographs(options.size) if options.images is None else read_folder(options.images, options.size)
    except ValueError as error:
        parser.error(str(error))
    source = "scikit-learn's photographs, halved" if options.images is None else str(options.images)
    sys.stdout.write(f"PSNR in dB, mean ± 95 %, n = {len(images)} images of {options.size} px ({source})\n\n")
    sys.stdout.write(as_markdown(compare_codecs(images)) + "\n")


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    if len(values) < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(student.ppf(0.975, len(values) - 1) * sem(values))


def _tensor(tiles: Sequence[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float() / 255.0


if __name__ == "__main__":
    main()
