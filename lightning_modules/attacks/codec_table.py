"""How far the differentiable JPEG is from the real codec: a table by quality and subsampling.

`evaluate.py codecs` prints it as Markdown for two photographs that scikit-learn ships; `--images FOLDER` takes yours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import sem
from scipy.stats import t as student
from sklearn.datasets import load_sample_images
from torch import Tensor

from lightning_modules.attacks.jpeg import SUBSAMPLINGS, Jpeg
from lightning_modules.common.images import eight_bit

QUALITIES = (95, 90, 80, 70, 60, 50)


@dataclass(frozen=True)
class Agreement:
    """One row: mean PSNR in dB over the images, with the half width of its 95 % interval (Student)."""

    quality: int
    subsampling: str  # of the real codec; the differentiable one always has 4:2:0
    agreement: tuple[float, float]  # differentiable, rounded to 8 bits, against real
    real: tuple[float, float]  # against the uncompressed image
    differentiable: tuple[float, float]  # rounded, against the uncompressed image


def compare_codecs(
    images: Tensor, qualities: Sequence[int] = QUALITIES, subsamplings: Sequence[str] = SUBSAMPLINGS
) -> list[Agreement]:
    """Compress images float32 `(n, 3, H, W)` in [0, 1], rounded to 8 bits first, both ways and compare."""
    clean = eight_bit(images).cpu()
    seeds = torch.zeros(len(images), dtype=torch.int64)  # the quality is fixed: nothing is drawn
    rows = []
    for subsampling in subsamplings:
        for quality in qualities:
            attack = Jpeg(quality, subsampling)
            real = attack.real(clean, seeds)
            smooth = eight_bit(attack.differentiable(clean, seeds)).cpu()
            pairs = ((smooth, real), (real, clean), (smooth, clean))
            means = [_mean(psnr(first, second)) for first, second in pairs]
            rows.append(Agreement(quality, subsampling, *means))
    return rows


def psnr(first: Tensor, second: Tensor) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each pair of images in [0, 1], float64 `(n,)` in dB.

    Equal images count as one grey level of error in one value, so that a mean stays finite.
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


def squares(photos: Iterable[NDArray[np.uint8]], size: int) -> Tensor:
    """Cut the central square out of each photograph `(H, W, 3)` and resize it: `(n, 3, size, size)` in [0, 1]."""
    tiles = []
    for pixels in photos:
        image = Image.fromarray(pixels)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        tiles.append(np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)))
    return _tensor(tiles)


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    if len(values) < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(student.ppf(0.975, len(values) - 1) * sem(values))


def _tensor(tiles: Sequence[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float() / 255.0
