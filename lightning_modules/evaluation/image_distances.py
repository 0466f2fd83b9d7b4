"""Frechet distances of a fingerprint's test: how near marked images stay to real ones, and to the generator's own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_modules.evaluation.blocks import ALONE, EvaluationFolder, read_matrix, read_some_rows
from lightning_modules.fingerprints.settings import TestSettings
from lightning_modules.metrics.extractors import FeatureExtractor
from lightning_modules.metrics.fid import FrechetImageDistance, distance_difference
from lightning_modules.metrics.intervals import Estimate

MARKED = "marked"
DISTANCES = {
    "fid_before": ("real", "unmarked"),
    "fid_after": ("real", "marked"),
    "fid_own": ("unmarked_others", "marked"),
    "fid_own_floor": ("unmarked_others", "unmarked"),
}
"""Which set is the reference and which is compared with it."""


def equal_images(parts: Mapping[str, int]) -> int:
    """Images of each set that enter a Frechet distance, the same number for all so that they compare."""
    negatives = min((parts[kind] for kind in ("unmarked", "real") if kind in parts), default=0)
    return min(parts[MARKED], parts.get("unmarked", 0) // 2, negatives)


def measured_features(settings: TestSettings, parts: Mapping[str, int]) -> str | None:
    """The extractor of the Frechet distances, which need unmarked and real images; None for none."""
    return settings.features if {"unmarked", "real"} <= set(parts) else None


def image_distances(folder: EvaluationFolder) -> dict[str, Estimate]:
    """`test/quality/<distance>` of `DISTANCES`; `fid_added`, what the fingerprint adds; `test/<condition>/fid`."""
    extractor = folder.evaluation.settings["extractor"]
    if extractor is None:
        return {}
    stub = FeatureExtractor(extractor["name"], extractor["d"], nn.Identity())
    names = {name for pair in DISTANCES.values() for name in pair}
    sets = {name: _features(folder, name) for name in sorted(names)}
    found = {}
    for name, (reference, compared) in DISTANCES.items():
        metric = FrechetImageDistance(stub, **ALONE)
        metric.update_features(*_rows(sets[reference], True))
        metric.update_features(*_rows(sets[compared], False))
        found[f"test/quality/{name}"] = metric.estimate()
    own = [sets[name][0] for name in ("unmarked_others", "marked", "unmarked")]
    found["test/quality/fid_added"] = distance_difference(*own)
    under = FrechetImageDistance(stub, reset_real_features=False, **ALONE)
    under.update_features(*_rows(sets["real"], True))
    for place, entry in enumerate(folder.evaluation.conditions):
        under.reset()
        under.update_features(*_rows(_features(folder, MARKED, place), False))
        found[f"test/{entry['name']}/fid"] = under.estimate()
    return found


def _rows(some: tuple[Tensor, Tensor], real: bool) -> tuple[Tensor, bool, Tensor]:
    features, index = some
    return features, real, index


def _features(folder: EvaluationFolder, of: str, place: int = 0) -> tuple[Tensor, Tensor]:
    """Features `(n, d)` and indices `(n,)` of the images of a set that enter the distances, in order of the blocks."""
    part, column = (MARKED, f"{place}.features") if of == MARKED else (of.removesuffix("_others"), "features")
    equal = equal_images(folder.parts)
    first = equal if of.endswith("_others") else 0
    rows, places = [], []
    for table in folder.read(part, ["index", column]):
        features = read_some_rows(table, column)
        if features is None:
            continue
        index = read_matrix(table, "index")[: len(features)]  # those with features come first
        chosen = (index >= first) & (index < first + equal)
        rows.append(features[chosen])
        places.append(index[chosen])
    return torch.cat(rows), torch.cat(places)
