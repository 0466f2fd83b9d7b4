"""Frechet distance of each source to held-out reals, as one table (`evaluate.py fid` makes it of folders).

Every row has the same n, for Frechet distances are biased upwards by an amount that depends on it; the row `reals`, the
distance between two disjoint sets of reals of that n, shows how much of the others is that bias.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_modules.common.images import checked_uint8
from lightning_modules.common.progress import Progress
from lightning_modules.metrics.extractors import FeatureExtractor
from lightning_modules.metrics.fid import few_images
from lightning_modules.metrics.frechet import GaussianFactor

FLOOR = "reals"


@dataclass(frozen=True)
class FrechetTable:
    """Distances of sources to the same reals.

    Attributes:
        distances: by source, in the order given; last the floor, `reals`.
        n: images of each source, and of each of the two sets of reals.
        d: dimensions of the features.
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

    Images are `(n, 3, H, W)`, uint8 or float in [0, 1]; no source was trained on the reals. Of each source the first n
    are taken, by default all; 2 n of the reals are drawn. Warns, before any feature is computed, where n is not above
    the number of features.

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
    n = min(counts.values()) if n is None else n
    few = {name: count for name, count in counts.items() if count < n}
    if n < 2 or few or len(reals) < 2 * n:
        raise ValueError(
            f"asked for {n} images of each source and {2 * n} reals (two disjoint sets); found {len(reals)} reals"
            + (f", and of sources {few}" if few else "")
            + f"; n from 2 to {min(*counts.values(), len(reals) // 2)} is possible (--n)"
        )

    if (warning := few_images(f"fid_{extractor.name}", n, extractor.num_features)) is not None:
        warnings.warn(warning, stacklevel=2)

    def gaussian(name: str, images: Tensor) -> GaussianFactor:
        return GaussianFactor.from_features(features_of(images, extractor, batch_size, name if progress else None))

    drawn = torch.from_numpy(np.random.default_rng(seed).permutation(len(reals))[: 2 * n])
    reference = gaussian("reals", reals[drawn[:n]])
    distances = {name: float(gaussian(name, images[:n]).distance(reference)) for name, images in sources.items()}
    distances[FLOOR] = float(gaussian("other reals", reals[drawn[n:]]).distance(reference))
    return FrechetTable(f"fid_{extractor.name}", distances, n, extractor.num_features, seed)


def features_of(images: Tensor, extractor: FeatureExtractor, batch_size: int = 100, title: str | None = None) -> Tensor:
    """Features `(n, d)` of images `(n, 3, H, W)`, batch by batch; with a title, it says how far it is."""
    features = []
    with Progress(f"features of {title}", len(images), shown=title is not None) as progress:
        for start in range(0, len(images), batch_size):
            features.append(extractor(checked_uint8(images[start : start + batch_size])))
            progress.update(len(features[-1]))
    return torch.cat(features)
