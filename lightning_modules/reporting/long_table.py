"""The long table of an evaluation, read back: one row a part, condition and metric; and how far an evaluation has come.

Folders of earlier versions have no `results.csv`; their table is made of the names in `metrics.json`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.attacks.curves import CURVES
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.strengths import attack_strength

RESULTS_FILE = "results.csv"
EVALUATION_FILE = "evaluation.json"
FORMAT = 1
"""Of `evaluation.json`."""
COLUMNS = ("part", "attack", "kind", "strength", "seed", "metric", "value", "low", "high", "n")
CLEAN = "clean"
Key = tuple[str, str, str]
"""Part, attack and metric: what names a number in every run."""


@dataclass(frozen=True)
class Result:
    """One number of an evaluation."""

    part: str  # of the test: `test`, `marked`, `control/raw`, `negatives/real`, `quality`
    attack: str  # display name of the condition: `clean`, `jpeg_50`, `paper-noise`
    kind: str  # of the attack; empty where it is not known
    strength: float | None  # in real units; None where the condition has no one number
    seed: str  # of the condition; empty where it is not known
    metric: str  # `accuracy`, `bit_accuracy`, `fid`
    estimate: Estimate

    @property
    def key(self) -> Key:
        """What names the number."""
        return self.part, self.attack, self.metric

    @property
    def on_curve(self) -> bool:
        """Whether this is the point of a curve at its strength, and not another attack of the same strength."""
        return self.strength is not None and self.attack == f"{self.kind}_{self.strength:g}"


@dataclass(frozen=True)
class Unfinished:
    """The folder of an evaluation that has not come to its end."""

    folder: Path
    done: int  # blocks that are committed
    blocks: int  # of the whole evaluation

    def __str__(self) -> str:
        if not self.blocks:
            return f"{self.folder} holds no evaluation: it was refused, or stopped before its first block; left aside."
        return (
            f"{self.folder} is unfinished: {self.done:,} of {self.blocks:,} blocks are done; it is left aside. The "
            "command that began it goes on from there."
        )


def read_results(folder: Path, metrics: Mapping[str, Estimate]) -> list[Result]:
    """The long table of a run folder; of an earlier version from its `metrics`.

    Raises:
        ValueError: `results.csv` is no such table.
    """
    path = folder / RESULTS_FILE
    if not path.is_file():
        return [_named(name, estimate) for name, estimate in metrics.items()]
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path} has no columns {missing}; expected {list(COLUMNS)}, test the run again")
        try:
            return [_row(row) for row in reader]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}; test the run again") from error


def results_csv(results: Iterable[Result]) -> str:
    """The long table as `read_results` reads it: full precision, an empty cell for what there is not."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in results:
        estimate = one.estimate
        numbers = [_cell(number) for number in (estimate.value, estimate.low, estimate.high)]
        strength = _cell(one.strength)
        writer.writerow([one.part, one.attack, one.kind, strength, one.seed, one.metric, *numbers, estimate.n])
    return text.getvalue()


def _cell(number: float | None) -> str:
    return "" if number is None or not math.isfinite(number) else repr(number)


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """`evaluation.json` of a folder; None where there is none.

    Raises:
        ValueError: it is no JSON object, or one of another format.
    """
    path = folder / EVALUATION_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, expected an evaluation's settings by name")
    if found.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of format {found.get('format')!r}, expected {FORMAT}; it is of another version of this project"
        )
    parts, conditions = found.get("parts", {}), found.get("conditions", [])
    entries = [*parts.values(), *conditions] if isinstance(parts, dict) and isinstance(conditions, list) else [None]
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path}: expected parts by name and a list of conditions, each an object; test the run again")
    return found


def unfinished(folder: Path, evaluation: Mapping[str, Any]) -> Unfinished:
    """How many blocks of an evaluation are done."""
    parts = evaluation.get("parts") or {}
    done = {part: len(list((folder / "blocks" / part).glob("*.parquet"))) for part in parts}
    counts = {part: int(entry.get("blocks", 0)) for part, entry in parts.items()}
    return Unfinished(folder, sum(min(done[part], counts[part]) for part in parts), sum(counts.values()))


def curve_points(results: Iterable[Result], part: str, metric: str) -> dict[str, list[Result]]:
    """The points of one metric's robustness curves by kind of attack, by strength; one a strength."""
    found: dict[str, dict[float, Result]] = {}
    for one in results:
        if (one.part, one.metric) == (part, metric) and one.strength is not None and one.kind not in ("", CLEAN):
            known = found.setdefault(one.kind, {})
            if one.strength not in known or one.on_curve:
                known[one.strength] = one
    # the one strength of a preset is no curve
    curves = {
        kind: known for kind, known in found.items() if len(known) > 1 or any(one.on_curve for one in known.values())
    }
    return {kind: [known[strength] for strength in sorted(known)] for kind, known in curves.items()}


def _row(row: Mapping[str, str]) -> Result:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    value = number("value")
    estimate = Estimate(
        float("nan") if value is None else value, number("low"), number("high"), int(row["n"] or 0), "95%"
    )
    strength = number("strength")
    return Result(row["part"], row["attack"], row["kind"], strength, row["seed"], row["metric"], estimate)


def _named(name: str, estimate: Estimate) -> Result:
    """A number of an earlier version, whose name says what it is of."""
    first, *rest = name.removeprefix("test/").split("/")
    metric = "/".join(rest)
    if first in ("control", "trivial", "negatives") and len(rest) > 1:
        return Result(f"{first}/{rest[0]}", CLEAN, CLEAN, None, "", "/".join(rest[1:]), estimate)
    if first == "quality" and rest:
        return Result(first, CLEAN, CLEAN, None, "", metric, estimate)
    if first == "recall" or not rest:
        return Result("test", CLEAN, CLEAN, None, "", "/".join([first, *rest]), estimate)
    kind, strength = attack_strength(first) or (_preset_kind(first), None)
    return Result("marked", first, kind, strength, "", metric, estimate)


def _preset_kind(attack: str) -> str:
    """The kind of a preset's attack, whose name ends with it; empty for any other."""
    kind = attack.rpartition("-")[2]
    return kind if kind in (*CURVES, CLEAN, "mixture") else ""
