"""Frechet distance of each source to held-out reals, as one table.

python -m lightning_modules.metrics.fid_table SOURCE_FOLDER... --reals FOLDER [--features fashion_cnn] [--out DIR]

Every row has the same n, for Frechet distances are biased upwards by an amount that depends on it; the row `reals`, the
distance between two disjoint sets of reals of that n, shows how much of the others is that bias.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from lightning_modules.common.files import check_folder, describe_place_error, write_text
from lightning_modules.common.shipped import program
from lightning_modules.metrics.extractors import WORDS, FeatureExtractor, build_extractor
from lightning_modules.metrics.fid import to_8_bit
from lightning_modules.metrics.frechet import GaussianFactor

FLOOR = "reals"


@dataclass(frozen=True)
class FrechetTable:
    """Distances of sources to the same reals.

    Attributes:
        metric: `fid_<extractor>`.
        distances: by source, in the order given; last the floor, `reals`.
        n: images of each source, and of each of the two sets of reals.
        d: dimensions of the features.
        seed: what the reals were drawn by.
    """

    metric: str
    distances: dict[str, float]
    n: int
    d: int
    seed: int

    def to_markdown(self) -> str:
        """A table with a row for each source, nearest first, and the floor last."""
        rows = sorted((value, name) for name, value in self.distances.items() if name != FLOOR)
        lines = [f"| source | {self.metric} | n | d |", "|---|---|---|---|"]
        lines += [f"| {name} | {value:.4g} | {self.n} | {self.d} |" for value, name in rows]
        floor = f"| {FLOOR} (other {self.n}) | {self.distances[FLOOR]:.4g} | {self.n} | {self.d} |"
        return "\n".join([*lines, floor]) + "\n"

    def to_json(self) -> str:
        """Everything in the table, at full precision."""
        return json.dumps(vars(self), indent=2) + "\n"


def frechet_table(
    sources: Mapping[str, Tensor],
    reals: Tensor,
    extractor: FeatureExtractor,
    *,
    n: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    progress: bool = False,
) -> FrechetTable:
    """Frechet distance of each source to n reals, and of n other reals to them.

    Args:
        sources: images by name, `(n, 3, H, W)`, uint8 or float in [0, 1].
        reals: images that no source was trained on, in any order; 2 n of them are drawn.
        extractor: of `build_extractor`.
        n: how many images of each source are taken, the first ones; by default all, of which each must have as many.
        seed: draws the reals.
        batch_size: images per pass through the extractor.
        progress: show a progress bar for each source.

    Raises:
        ValueError: no source, unequal or too few images, or a source called `reals`.
    """
    counts = {name: len(images) for name, images in sources.items()}
    if not counts or FLOOR in counts:
        raise ValueError(f"found sources {sorted(counts)}; expected at least one, and none called {FLOOR!r}")
    if n is None and len(set(counts.values())) > 1:
        raise ValueError(
            f"sources have different numbers of images: {counts}; Frechet distances of different n do not compare. "
            f"Give n={min(counts.values())} (--n) to take the first of each"
        )
    n = n if n is not None else min(counts.values())
    few = {name: count for name, count in counts.items() if count < n}
    if n < 2 or few or len(reals) < 2 * n:
        raise ValueError(
            f"asked for {n} images of each source and {2 * n} reals (two disjoint sets); found {len(reals)} reals"
            + (f", and of sources {few}" if few else "")
            + f"; n from 2 to {min(*counts.values(), len(reals) // 2)} is possible (--n)"
        )

    def gaussian(name: str, images: Tensor) -> GaussianFactor:
        return GaussianFactor.from_features(features_of(images, extractor, batch_size, name if progress else None))

    drawn = torch.from_numpy(np.random.default_rng(seed).permutation(len(reals))[: 2 * n])
    reference = gaussian("reals", reals[drawn[:n]])
    distances = {name: float(gaussian(name, images[:n]).distance(reference)) for name, images in sources.items()}
    distances[FLOOR] = float(gaussian("other reals", reals[drawn[n:]]).distance(reference))
    return FrechetTable(f"fid_{extractor.name}", distances, n, extractor.num_features, seed)


def features_of(images: Tensor, extractor: FeatureExtractor, batch_size: int = 100, title: str | None = None) -> Tensor:
    """Features `(n, d)` of images `(n, 3, H, W)`, batch by batch; with a title, behind a progress bar."""
    starts = tqdm(range(0, len(images), batch_size), desc=title, disable=title is None)
    return torch.cat([extractor(to_8_bit(images[start : start + batch_size])) for start in starts])


def read_folder(folder: Path) -> Tensor:
    """Images of a folder's PNG files in the order of their names, as RGB: uint8 `(n, 3, H, W)`.

    Raises:
        FileNotFoundError: no such folder, or no PNG in it.
        ValueError: a file that is no 8-bit image, or images of several sizes.
    """
    files = sorted(folder.glob("*.png"))
    if not files:
        raise FileNotFoundError(f"{folder}: found no PNG files there; give a folder of images of one source")
    arrays: list[NDArray[np.uint8]] = []
    for file in files:
        try:
            with Image.open(file) as image:
                if image.mode not in ("L", "RGB"):
                    raise ValueError(f"{file}: found mode {image.mode}, expected 8-bit grey or RGB, opaque")
                arrays.append(np.asarray(image.convert("RGB")))
        except OSError as error:
            raise ValueError(f"{file}: not readable as an image ({error}); write it again") from error
        if arrays[-1].shape != arrays[0].shape:
            raise ValueError(
                f"{file} has {arrays[-1].shape[:2]} pixels, {files[0].name} {arrays[0].shape[:2]}; expected one size"
            )
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def main(args: list[str] | None = None) -> FrechetTable:
    """Command line: prints the table, and writes it where `--out` says."""
    parser = argparse.ArgumentParser(prog=program("fid", "lightning_modules.metrics.fid_table"), description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("sources", type=Path, nargs="+", help="folders of PNG files, one per source")
    parser.add_argument("--reals", type=Path, required=True, help="folder of reals that no source was trained on")
    parser.add_argument("--features", default="fashion_cnn", help=WORDS)
    parser.add_argument("--n", type=int, default=None, help="images of each source; default: all, if equally many")
    parser.add_argument("--seed", type=int, default=0, help="draws the reals")
    parser.add_argument("--out", type=Path, default=None, help="folder for METRIC.md and METRIC.json")
    options = parser.parse_args(args)
    if options.out is not None:
        check_folder(options.out, "--out")
    folders: dict[str, Path] = {}
    for folder in options.sources:
        name = folder.resolve().name
        if name in folders:
            raise ValueError(f"two sources are called {name!r}: {folders[name]} and {folder}; rename a folder")
        folders[name] = folder
    reals = read_folder(options.reals)
    images = {name: read_folder(folder) for name, folder in folders.items()}
    extractor = build_extractor(options.features)
    table = frechet_table(images, reals, extractor, n=options.n, seed=options.seed, progress=sys.stderr.isatty())
    print(table.to_markdown(), end="")
    if options.out is not None:
        for suffix, text in (("md", table.to_markdown()), ("json", table.to_json())):
            write_text(options.out / f"{table.metric}.{suffix}", text)
    return table


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as problem:
        sys.stderr.write(f"error: {describe_place_error(problem) or problem}\n")
        raise SystemExit(2) from None
