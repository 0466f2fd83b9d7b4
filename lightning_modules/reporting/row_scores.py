"""What each test image gave, from `rows.jsonl`, so that two runs can be compared image by image."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
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
        matching: bits of each image that matched, by condition: int32 `(n,)`.
        p_values: of each image's key, by condition: float64 `(n,)`; empty for tests of an earlier version.
    """

    images: NDArray[np.str_]
    hashed: bool
    sources: NDArray[np.str_]
    right: Mapping[str, NDArray[np.bool_]]
    matching: Mapping[str, NDArray[np.int32]]
    p_values: Mapping[str, NDArray[np.float64]]

    def scores(self, attack: str, metric: str, facts: Mapping[str, Any]) -> NDArray[np.float64] | None:
        """What the metric is the mean of under a condition; None where the rows do not hold it.

        Args:
            attack: Name of the condition.
            metric: `accuracy`, `accuracy_macro`, `bit_accuracy`, `attribution_accuracy`, `tpr_at_<rate>` or
                `tpr_bits_at_<rate>`.
            facts: `bits`, the length of a key, and by metric what a true positive needs: `{"bits_needed": k}` or
                `{"false_positive_rate": r}`.
        """
        needs, bits = facts.get(metric, {}), facts.get("bits")
        if metric in ("accuracy", "accuracy_macro") and attack in self.right:
            return self.right[attack].astype(np.float64)
        counts = self.matching.get(attack)
        if counts is None or not bits:
            return None
        if metric == "bit_accuracy":
            return np.asarray(counts / bits, dtype=np.float64)
        if metric == "attribution_accuracy":
            return np.asarray(counts == bits, dtype=np.float64)
        if needs.get("bits_needed") is not None:
            return np.asarray(counts >= needs["bits_needed"], dtype=np.float64)
        if "bits_needed" not in needs and "false_positive_rate" in needs and attack in self.p_values:
            return np.asarray(self.p_values[attack] <= needs["false_positive_rate"], dtype=np.float64)
        return None


def read_row_scores(folder: Path) -> RowScores | None:
    """The scores of a run folder; None where it has no rows that say what each image gave.

    Raises:
        ValueError: a line is no JSON object.
    """
    path = folder / ROWS_FILE
    if not path.is_file():
        return None
    places: dict[str, int] = {}  # of each image, in the order of the file
    sources: list[str] = []
    right, matching, p_values = _Columns(), _Columns(), _Columns("d")
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
            image = f"{image} {row['index']}" if own_pixels and image in places else image  # the same picture twice
            place = places.setdefault(image, len(places))
            if place == len(sources):
                sources.append(str(row.get("source", "")))
            for attack, predicted in _by_attack(row, "predicted").items():
                right.add(attack, place, int(predicted == row.get("source")))
            for attack, count in _by_attack(row, "matching_bits").items():
                matching.add(attack, place, int(count))
            for attack, chance in _by_attack(row, "p_value").items():
                p_values.add(attack, place, float(chance))
    labelled = bool(right.values)
    if not labelled and not matching.values:
        return None
    names = np.asarray(list(places))
    order = np.argsort(names)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return RowScores(
        images=names[order],
        hashed=hashed,
        sources=np.asarray(sources, dtype=np.str_)[order] if labelled else np.empty(0, dtype=np.str_),
        right={name: column.astype(np.bool_) for name, column in right.whole(rank)},
        matching=dict(matching.whole(rank)),
        p_values=dict(p_values.whole(rank)),
    )


class _Columns:
    """Numbers by condition and image; plain arrays, since there may be millions."""

    def __init__(self, code: str = "i") -> None:
        self.code = code  # of the numbers, as `array` has it
        self.values: dict[str, tuple[array[int], array[Any]]] = {}  # places and numbers

    def add(self, attack: str, place: int, value: float) -> None:
        """Add the number of the image at a place."""
        column = self.values.get(attack)
        if column is None:
            column = self.values[attack] = array("i"), array(self.code)
        column[0].append(place)
        column[1].append(value)

    def whole(self, rank: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[Any]]]:
        """The conditions that have a number for every image, each image's at its rank; forgets them meanwhile."""
        while self.values:
            attack = next(iter(self.values))
            places, values = map(np.asarray, self.values.pop(attack))
            if len(np.unique(places)) == len(rank):
                column = np.zeros(len(rank), dtype=values.dtype)
                column[rank[places]] = values
                yield attack, column


def _by_attack(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a row says by condition: of several in one row, or of the one that the row is of."""
    found = row.get(name)
    if found is None:
        return {}
    return found if isinstance(found, Mapping) else {str(row.get("attack", CLEAN)): found}
