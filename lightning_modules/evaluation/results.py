"""From a folder of finished blocks to results: numbers with intervals, one long table, rows; on one process."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.common.files import write_text
from lightning_modules.evaluation.attribution import attribution_rows, fold_attribution
from lightning_modules.evaluation.blocks import BLOCKS, EvaluationFolder
from lightning_modules.evaluation.conditions import CLEAN
from lightning_modules.evaluation.fingerprint import fingerprint_rows, fold_fingerprint
from lightning_modules.metrics.intervals import Estimate

ATTRIBUTION, FINGERPRINT = "attribution", "fingerprint"
COLUMNS = ("part", "attack", "kind", "strength", "seed", "metric", "value", "low", "high", "n")
"""Of the long table: one line for each number."""
_BESIDE = "beside.json"
_WHOLE = {ATTRIBUTION: "test", FINGERPRINT: "marked"}


def fold_results(folder: EvaluationFolder) -> dict[str, Estimate]:
    """Every number of an evaluation, by name.

    Raises:
        EvaluationError: blocks are missing.
    """
    folder.require_whole()
    fold = {ATTRIBUTION: fold_attribution, FINGERPRINT: fold_fingerprint}[folder.evaluation.kind]
    return fold(folder) | read_beside(folder.folder)


def result_rows(folder: EvaluationFolder) -> Iterator[dict[str, Any]]:
    """The rows of an evaluation in the order of its samples."""
    return {ATTRIBUTION: attribution_rows, FINGERPRINT: fingerprint_rows}[folder.evaluation.kind](folder)


def write_beside(folder: Path, found: Mapping[str, Estimate]) -> None:
    """Keep numbers that are measured beside the blocks, such as what trivial features reach; they join the results."""
    entries = {name: estimate.to_json() for name, estimate in found.items()}
    write_text(folder / BLOCKS / _BESIDE, json.dumps(entries, indent=2) + "\n")


def has_beside(folder: Path) -> bool:
    """Whether numbers beside the blocks are there."""
    return (folder / BLOCKS / _BESIDE).is_file()


def read_beside(folder: Path) -> dict[str, Estimate]:
    """The numbers of `write_beside`; none where it was not called."""
    if not has_beside(folder):
        return {}
    entries = json.loads((folder / BLOCKS / _BESIDE).read_text(encoding="utf-8"))
    return {name: Estimate.from_json(entry) for name, entry in entries.items()}


def long_table(
    results: Mapping[str, Estimate], conditions: Sequence[Mapping[str, Any]], kind: str
) -> list[dict[str, Any]]:
    """Results as lines of the columns `COLUMNS`.

    `part` is what was measured: `test` or `marked`, `control/raw`, `source/gan-a` (of its images alone), `trivial/...`,
    `negatives/real`, `quality`; `strength` is None where the attack lies on no robustness curve.
    """
    by_name = {entry["name"]: entry for entry in conditions}
    lines = []
    for name, estimate in results.items():
        rest = name.removeprefix("test/")
        attack = next((each for each in by_name if rest.startswith(f"{each}/")), None)
        rest = rest if attack is None else rest[len(attack) + 1 :]
        part, _, metric = rest.rpartition("/")
        if part == "recall":
            part, metric = f"source/{metric}", "recall"
        condition = by_name[attack or CLEAN]
        lines.append(
            {
                "part": part or _WHOLE[kind],
                "attack": condition["name"],
                **{column: condition[column] for column in ("kind", "strength", "seed")},
                "metric": metric,
                **{column: getattr(estimate, column) for column in ("value", "low", "high", "n")},
            }
        )
    return lines


def write_long_table(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write `results.csv`: full precision, nothing in a cell that has no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in lines:
        values = [line[column] for column in COLUMNS]
        writer.writerow(["" if value is None or value != value else value for value in values])  # NaN is not itself
    write_text(path, text.getvalue())
