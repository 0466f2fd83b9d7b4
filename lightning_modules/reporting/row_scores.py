"""What each test image gave, from `rows.jsonl`, so that two runs can be compared image by image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_modules.reporting.long_table import CLEAN

ROWS_FILE = "rows.jsonl"


@dataclass(frozen=True)
class RowScores:
    """One number an image, in the same order for every condition of a run.

    Attributes:
        images: what names each test image, sorted: the hash of its pixels, or its number; `(n,)`.
        hashed: whether `images` are hashes, so that those of other data differ.
        sources: the true source of each image, `(n,)`; empty for fingerprints.
        right: whether each image was named rightly, by condition: bool `(n,)`.
        matching: bits of each image that matched, by condition: int64 `(n,)`.
    """

    images: NDArray[np.str_]
    hashed: bool
    sources: NDArray[np.str_]
    right: Mapping[str, NDArray[np.bool_]]
    matching: Mapping[str, NDArray[np.int64]]

    def scores(self, attack: str, metric: str, bits: int | None, needed: int | None) -> NDArray[np.float64] | None:
        """What the metric is the mean of under a condition; None where the rows do not hold it.

        Args:
            attack: Name of the condition.
            metric: `accuracy`, `accuracy_macro`, `bit_accuracy`, `attribution_accuracy` or `tpr_at_<rate>`.
            bits: Length of a key.
            needed: Matching bits that a true positive needs.
        """
        if metric in ("accuracy", "accuracy_macro") and attack in self.right:
            return self.right[attack].astype(np.float64)
        counts = self.matching.get(attack)
        if counts is None or not bits:
            return None
        if metric == "bit_accuracy":
            return counts.astype(np.float64) / bits
        if metric == "attribution_accuracy":
            return (counts == bits).astype(np.float64)
        return (counts >= needed).astype(np.float64) if metric.startswith("tpr_at_") and needed is not None else None


def read_row_scores(folder: Path) -> RowScores | None:
    """The scores of a run folder; None where it has no rows that say what each image gave.

    Raises:
        ValueError: a line is no JSON object.
    """
    path = folder / ROWS_FILE
    if not path.is_file():
        return None
    images: dict[str, str] = {}  # source by image
    right: dict[str, dict[str, bool]] = {}
    matching: dict[str, dict[str, int]] = {}
    hashed = True
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"found a {type(row).__name__}")
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: expected a JSON object: {error}") from error
            if row.get("part", "test") not in ("test", "marked") or "index" not in row:
                continue
            # rows of one condition each are named by number: the pixels of an attacked image are others
            own_pixels = "content_id" in row and "attack" not in row
            hashed &= own_pixels
            image = f"{row['content_id']}" if own_pixels else f"{row['index']:012d}"
            image = f"{image} {row['index']}" if own_pixels and image in images else image  # the same picture twice
            images[image] = str(row.get("source", ""))
            for attack, predicted in _by_attack(row, "predicted").items():
                right.setdefault(attack, {})[image] = predicted == row.get("source")
            for attack, count in _by_attack(row, "matching_bits").items():
                matching.setdefault(attack, {})[image] = int(count)
    if not right and not matching:
        return None
    order = sorted(images)
    sources = [images[image] for image in order] if right else []
    return RowScores(
        images=np.asarray(order),
        hashed=hashed,
        sources=np.asarray(sources, dtype=np.str_),
        right={name: _column(found, order, np.bool_) for name, found in right.items() if len(found) == len(order)},
        matching={
            name: _column(found, order, np.int64) for name, found in matching.items() if len(found) == len(order)
        },
    )


def _by_attack(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a row says by condition: of several in one row, or of the one that the row is of."""
    found = row.get(name)
    if found is None:
        return {}
    return found if isinstance(found, Mapping) else {str(row.get("attack", CLEAN)): found}


def _column(found: Mapping[str, Any], order: list[str], kind: Any) -> NDArray[Any]:
    return np.asarray([found[image] for image in order], dtype=kind)
