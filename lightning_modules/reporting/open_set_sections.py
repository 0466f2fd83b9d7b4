"""Sections of an attributor's report: calibration, detection of generated images, sources nobody knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_modules.evaluation.conditions import CLEAN, Condition
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.page import Block, Cell, Section, Table

Results = Mapping[str, Estimate]
SCORE_TITLES = {
    "probability": "largest probability",
    "energy": "energy",
    "features": "distance of features",
}
_CALIBRATION = {
    "ece": "ECE",
    "ece_uncalibrated": "ECE before the temperature",
    "cross_entropy": "negative log likelihood (nats)",
}
_DETECTION = {
    "detection/auroc": "AUROC",
    "detection/tpr_at_5_fpr": "generated images found",
    "detection/fpr": "reals taken for generated",
}
_UNKNOWN = {"auroc": "AUROC", "tpr_at_5_fpr": "unknown images found", "fpr": "known images taken for unknown"}


def open_set_sections(results: Results, conditions: Sequence[Condition], unknown: Sequence[str]) -> list[Section]:
    """Those for which there are numbers; `unknown` names the sources that were held out."""
    found = [_calibration(results, conditions), _detection(results, conditions)]
    return [section for section in (*found, _unknown(results, conditions, unknown)) if section is not None]


def _prefixes(conditions: Sequence[Condition]) -> dict[str, str]:
    return {each.name: "test/" if each.name == CLEAN else f"test/{each.name}/" for each in conditions}


def _table(results: Results, conditions: Sequence[Condition], columns: Mapping[str, str], caption: str) -> Table | None:
    """A row for each condition, of the metrics that there are."""
    prefixes = _prefixes(conditions)
    there = {name: title for name, title in columns.items() if any(f"{p}{name}" in results for p in prefixes.values())}
    if not there:
        return None
    rows: list[list[Cell]] = [
        [condition, *(results.get(f"{prefix}{name}") for name in there)] for condition, prefix in prefixes.items()
    ]
    shares = [title for name, title in there.items() if name.endswith("fpr")]
    return Table(["attack", *there.values()], rows, caption, percent=shares)


def _calibration(results: Results, conditions: Sequence[Condition]) -> Section | None:
    if (ece := results.get("test/ece")) is None:
        return None
    expected = ece.details.get("calibrated")
    caption = (
        f"Mean gap between confidence and share of right answers in {ece.details['bins']} bins of confidence. The "
        f"temperature, {ece.details['temperature']:.3g}, was fitted on clean validation images."
    )
    if expected is not None:
        caption += f" As many clean images with exactly right probabilities would give {expected:.3f} on average."
    table = _table(results, conditions, _CALIBRATION, caption)
    intro = "Whether a probability of 90 % is right nine times in ten."
    return None if table is None else Section("Calibration", [table], intro)


def _detection(results: Results, conditions: Sequence[Condition]) -> Section | None:
    caption = (
        "Score: log odds that the source is not a real one. The threshold is what 5 % of real validation images may "
        "exceed; it is set on clean images."
    )
    if results.get("test/detection/auroc") is not None and "test/detection/fpr" not in results:
        caption += " Fewer than 19 real validation images set no threshold at 5 %."
    table = _table(results, conditions, _DETECTION, caption)
    return None if table is None else Section("Real or generated", [table], "Whatever the generator.")


def _unknown(results: Results, conditions: Sequence[Condition], unknown: Sequence[str]) -> Section | None:
    rows: list[list[Any]] = []
    shots: list[list[Any]] = []
    for condition, prefix in _prefixes(conditions).items():
        for score, title in SCORE_TITLES.items():
            if f"{prefix}unknown/{score}/auroc" in results:
                rows.append([condition, title, *(results.get(f"{prefix}unknown/{score}/{name}") for name in _UNKNOWN)])
        for name, estimate in results.items():
            if (match := re.fullmatch(re.escape(prefix) + r"unknown/(\d+)_shot/rank1", name)) is not None:
                precision = results[name.replace("/rank1", "/map")]
                spread = estimate.details["std"]
                shots.append([condition, int(match[1]), estimate, spread, precision, estimate.details["chance"]])
    if not rows:
        return None
    columns = ["attack", "score", *_UNKNOWN.values()]
    caption = (
        "Each score against images of trained sources. Thresholds are those that 5 % of clean validation images of "
        "trained sources may exceed."
    )
    blocks: list[Block] = [Table(columns, rows, caption, percent=columns[3:])]
    if shots:
        names = ["attack", "images of each source", "Rank-1", "std of Rank-1", "mAP", "chance"]
        told = (
            "Galleries of a few images of every source, trained and unknown; asked are the other images of the unknown "
            "ones. Mean over random galleries, in brackets over draws alone."
        )
        blocks.append(Table(names, shots, told, percent=["Rank-1", "std of Rank-1", "chance"]))
    intro = f"Held out of the training, and tested as images of sources nobody knows: {', '.join(unknown)}."
    return Section("Unseen sources", blocks, intro)
