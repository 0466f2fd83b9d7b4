"""What a training logged, from the CSV file in its run folder."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path


def epoch_means(log: Path, titles: Mapping[str, str]) -> dict[str, list[tuple[float, float]]]:
    """Curves of (epoch, mean of what was logged during it).

    Args:
        log: the CSV file; no curve where there is none.
        titles: columns to read, and what to call each.

    Returns:
        Points in order of epochs, by title; columns with fewer than two epochs are left out.
    """
    if not log.is_file():
        return {}
    with log.open(newline="") as file:
        lines = list(csv.DictReader(file))
    curves = {}
    for name, title in titles.items():
        epochs: dict[float, list[float]] = {}
        for line in lines:
            if line.get(name) and line.get("epoch"):
                epochs.setdefault(float(line["epoch"]), []).append(float(line[name]))
        if len(epochs) > 1:
            curves[title] = [(epoch, sum(values) / len(values)) for epoch, values in sorted(epochs.items())]
    return curves
