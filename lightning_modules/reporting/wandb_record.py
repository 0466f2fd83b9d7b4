"""The results of a run folder in Weights & Biases: curves over the strength, tables, pictures, origin.

Call it on one process, the trainer's first, so that a run is one run whatever the number of processes. Nothing sent
holds a key or a decoded bit: rows are sent by the columns in `ROW_COLUMNS`, wrong bits by their positions.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.curve_families import MAIN_PARTS, TITLES
from lightning_modules.reporting.long_table import CLEAN, COLUMNS, Result, curve_points, read_results
from lightning_modules.reporting.row_scores import ROWS_FILE
from lightning_modules.reporting.run_files import read_metrics
from lightning_modules.reporting.strengths import curve_of, in_order
from lightning_modules.reporting.wandb_description import describe_run
from lightning_modules.reporting.wandb_examples import AttackedImage

MOST_ROWS = 10_000
"""Rows of `rows.jsonl` that are sent; the folder has all of them."""
ROW_COLUMNS = (
    "index", "file", "part", "attack", "source", "predicted", "probabilities", "distance", "content_id",
    "matching_bits", "p_value",
)  # fmt: skip
"""What may be told of an image; any other column stays in the folder."""
ARTIFACT_TYPES = {"checkpoint": "model", "data": "dataset", "manifold": "manifold"}


def strength_name(kind: str) -> str:
    """The horizontal axis of a kind of attack."""
    return f"strength/{kind}"


def curve_name(kind: str, metric: str, part: str = "test") -> str:
    """A metric's curve over the strengths of a kind of attack, of the test itself or of a control."""
    return f"robustness/{kind}/{metric}" if part in MAIN_PARTS else f"robustness/{kind}/{part}/{metric}"


def send_results(run: Any, folder: Path) -> None:
    """Send what a test has left in a run folder to a W&B run: everything but the examples of `send_examples`.

    Args:
        run: What `wandb.init` gave, or a logger's `experiment`.
        folder: The run folder; what is not in it is left out.
    """
    metrics = read_metrics(folder)
    results = read_results(folder, metrics)
    _send_origin(run, folder)
    _send_curves(run, results)
    _send_tables(run, folder, results)
    _send_pictures(run, folder)
    _send_summary(run, metrics)


def send_examples(run: Any, examples: Sequence[AttackedImage]) -> None:
    """Send images before and after attacks; which bits were misread is marked by position alone."""
    import wandb

    if examples:
        run.log({"test/examples": [wandb.Image(one.picture(), caption=one.text) for one in examples]})


def _send_origin(run: Any, folder: Path) -> None:
    """Tags, git commit, command, and the hashes of what the run was made from as artifacts that upload nothing."""
    import wandb

    about = describe_run(folder)
    run.tags = tuple(dict.fromkeys((*(run.tags or ()), *about.tags)))
    run.config.update(dict(about.config), allow_val_change=True)
    hashes = about.config["provenance"].get("hashes", {})
    for name, entry in hashes.items():
        facts = dict(entry) if isinstance(entry, Mapping) else {"hash": entry}
        if name not in ARTIFACT_TYPES or not facts.get("hash"):
            continue
        number = str(facts["hash"])
        artifact = wandb.Artifact(f"{name}-{number[:16]}", type=ARTIFACT_TYPES[name], metadata=facts)
        place = Path(str(facts.get("path") or ""))
        with contextlib.redirect_stderr(io.StringIO()):  # W&B warns that it cannot check what it cannot fetch
            if facts.get("path") and place.exists():
                artifact.add_reference(place.resolve().as_uri(), name=place.name, checksum=False)
            else:
                artifact.add_reference(f"ni:///sha-256;{number}", name=name, checksum=False)  # RFC 6920
        made_here = name == "checkpoint" and about.job_type == "train"
        # an offline run can use no artifact, only log one
        (run.log_artifact if run.offline or made_here else run.use_artifact)(artifact)


def _send_curves(run: Any, results: Sequence[Result]) -> None:
    """Every curve, a point a step, its strength as the horizontal axis: workspaces lay runs over each other by it."""
    shown = [one for one in results if one.metric in TITLES or one.metric.startswith("tpr_at_")]
    curves: dict[str, dict[float, dict[str, Estimate]]] = {}
    for part, metric in dict.fromkeys((one.part, one.metric) for one in shown):
        clean = next((one for one in shown if (one.part, one.attack, one.metric) == (part, CLEAN, metric)), None)
        for kind, points in curve_points(shown, part, metric).items():
            curve = curve_of(kind)
            if curve is None:
                continue
            found = {float(one.strength or 0.0): one.estimate for one in points}
            if clean is not None:
                found.setdefault(curve.untouched, clean.estimate)
            for strength, estimate in found.items():
                if math.isfinite(estimate.value):
                    curves.setdefault(kind, {}).setdefault(strength, {})[curve_name(kind, metric, part)] = estimate
    for kind in in_order(curves):
        names = sorted({name for point in curves[kind].values() for name in point})
        run.define_metric(strength_name(kind), hidden=True)
        for name in names:  # one by one: a logger's own rule for all names would come before one with a star
            run.define_metric(name, step_metric=strength_name(kind))
            for end in ("low", "high"):
                run.define_metric(f"interval/{name}/{end}", step_metric=strength_name(kind), hidden=True)
        for strength in sorted(curves[kind]):
            logged: dict[str, float] = {strength_name(kind): strength}
            for name, estimate in curves[kind][strength].items():
                logged[name] = estimate.value
                ends = {"low": estimate.low, "high": estimate.high}
                logged |= {f"interval/{name}/{end}": value for end, value in ends.items() if value is not None}
            run.log(logged)


def _send_tables(run: Any, folder: Path, results: Sequence[Result]) -> None:
    import wandb

    data: list[Iterable[Any]] = []
    for one in results:
        estimate = one.estimate
        value = estimate.value if math.isfinite(estimate.value) else None
        numbers = [value, estimate.low, estimate.high, estimate.n]
        data.append([one.part, one.attack, one.kind, one.strength, one.seed, one.metric, *numbers])
    run.log({"test/results": wandb.Table(columns=[*COLUMNS], data=data)})
    path = folder / ROWS_FILE
    if not path.is_file():
        return
    with path.open("rb") as file:
        count = sum(1 for _ in file)
    rows = [public_row(row) for row in _selected(path, count)]
    columns: list[str | int] = list(dict.fromkeys(name for row in rows for name in row))
    data = [[row.get(str(name)) for name in columns] for row in rows]
    run.log({"test/rows": wandb.Table(columns=columns, data=data, allow_mixed_types=True)})
    if count > len(rows):
        run.summary["test/rows_note"] = f"{len(rows):,} of {count:,} rows, evenly spaced; {ROWS_FILE} has all of them"


def _selected(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """At most `MOST_ROWS` rows, evenly spaced: files are often in the order of their sources."""
    kept = min(count, MOST_ROWS)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number * kept // count != (number - 1) * kept // count:
                yield json.loads(line)


def public_row(row: Mapping[str, Any]) -> dict[str, str | int | float | bool | None]:
    """What may be told of an image, a column each: `matching_bits/jpeg_50`, `probabilities/real`.

    Only the columns of `ROW_COLUMNS`, and of these only single values: a list of bits is none.
    """
    found: dict[str, str | int | float | bool | None] = {}
    for name in ROW_COLUMNS:
        value = row.get(name)
        entries: Iterable[tuple[str, Any]] = [(name, value)]
        if isinstance(value, Mapping):
            entries = [(f"{name}/{key}", item) for key, item in value.items()]
        for key, item in entries:
            countable = isinstance(item, int | float)
            if countable or (isinstance(item, str) and name != "matching_bits"):
                found[key] = item
    return found


def _send_pictures(run: Any, folder: Path) -> None:
    import wandb

    figures = sorted((folder / "figures").glob("*.png"))
    page = folder / "report.html"
    logged: dict[str, Any] = {f"test/{path.stem}": wandb.Image(str(path)) for path in figures}
    if page.is_file():
        logged["test/report"] = wandb.Html(page.read_text(encoding="utf-8"), inject=False)
    if logged:
        run.log(logged)


def _send_summary(run: Any, metrics: Mapping[str, Estimate]) -> None:
    numbers: dict[str, float | None] = {}
    for name, estimate in metrics.items():
        numbers[name] = estimate.value
        if estimate.low is not None:
            numbers[f"{name}/low"], numbers[f"{name}/high"] = estimate.low, estimate.high
    run.summary.update(numbers)
