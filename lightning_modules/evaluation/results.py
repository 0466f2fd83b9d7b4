"""From a folder of finished blocks to numbers with intervals and rows, on one process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_modules.common.files import write_text
from lightning_modules.evaluation.attribution import attribution_rows, fold_attribution
from lightning_modules.evaluation.blocks import BLOCKS, EvaluationFolder
from lightning_modules.evaluation.fingerprint import fingerprint_rows, fold_fingerprint
from lightning_modules.metrics.intervals import Estimate

ATTRIBUTION, FINGERPRINT = "attribution", "fingerprint"
_BESIDE = "beside.json"


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
