"""The results of a sweep: a table to read, a table to compute with, and the points of its figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.formatting import MISSING, format_estimate, markdown_rows

if TYPE_CHECKING:
    from lightning_modules.reporting.figures.trade_off import TradeOffPoint

CLEAN, ATTRIBUTION = "test/clean/bit_accuracy", "test/clean/attribution_accuracy"
FID_OWN, FID_FLOOR = "test/quality/fid_own", "test/quality/fid_own_floor"
FID_BEFORE, FID_AFTER = "test/quality/fid_before", "test/quality/fid_after"
_HEADINGS = {
    CLEAN: "bit accuracy, clean",
    ATTRIBUTION: "attribution accuracy, clean",
    FID_OWN: "FID, marked to unmarked",
    FID_FLOOR: "its floor: two sets of unmarked",
    FID_BEFORE: "FID to reals, unmarked",
    FID_AFTER: "FID to reals, marked",
}


@dataclass(frozen=True)
class SweepPoint:
    """What one point of a sweep gave."""

    label: str  # the point in one line
    settings: Mapping[str, Any]  # values of what varies over the sweep, by name
    state: str  # `finished`, or in words what became of it
    folder: str  # name of its run folder
    metrics: Mapping[str, Estimate] = field(default_factory=dict)  # `metrics.json`; empty where it has not finished
    mark: bool = False  # whether it is the setting that the sweep's config has by itself


def table_columns(points: Sequence[SweepPoint], metric: str | None) -> list[str]:
    """Metrics that the readable table shows: the known ones that some point has, and in any case the sweep's own."""
    found = {name for point in points for name in point.metrics}
    attacked = metric.rpartition("/")[0] + "/attribution_accuracy" if metric else ""
    wanted = [CLEAN, metric, ATTRIBUTION, attacked, FID_OWN, FID_FLOOR, FID_BEFORE, FID_AFTER]
    return [name for name in dict.fromkeys(wanted) if name and (name in found or name == metric)]


def sweep_markdown(points: Sequence[SweepPoint], title: str, metric: str | None) -> str:
    """One row a point: value, interval and n of each metric of `table_columns`; what did not finish says so."""
    columns = table_columns(points, metric)
    headings = [heading(name) for name in columns]
    rows = []
    for point in points:
        label = f"{point.label} (the config's own)" if point.mark else point.label
        shown = [_shown(name, point.metrics.get(name)) for name in columns]
        rows.append([label if point.metrics else f"{label}: {point.state}", *shown])
    done = sum(bool(point.metrics) for point in points)
    lines = [
        f"# {title}",
        "",
        *markdown_rows(["point", *headings], rows),
        "",
        f"{done} of {len(points)} points finished. Each cell: value (interval; n). {_intervals(points, columns)}",
    ]
    if metric is not None and done and not any(metric in point.metrics for point in points):
        lines.append(f"No point has {metric}, the metric that the sweep file names.")
    return "\n".join(lines).rstrip() + "\n"


def sweep_csv(points: Sequence[SweepPoint]) -> str:
    """One line a point: settings, state, folder, then value, low, high and n of every metric, in full precision."""
    settings = list(dict.fromkeys(name for point in points for name in point.settings))
    names = sorted({name for point in points for name in point.metrics})
    parts = ("", "/low", "/high", "/n")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*settings, "state", "folder", *(name + part for name in names for part in parts)])
    for point in points:
        numbers = [cell for name in names for cell in _cells(point.metrics.get(name))]
        settings_of = [point.settings.get(name, "") for name in settings]
        writer.writerow([*settings_of, point.state, point.folder, *numbers])
    return text.getvalue()


def trade_off_points(points: Sequence[SweepPoint], metric: str | None) -> tuple[list[TradeOffPoint], str]:
    """Finished points for `trade_off_figure`: the sweep's metric against the FID of marked to unmarked images.

    Points share a line where they differ in one setting alone: `sigma` where it varies, else the first number.

    Returns:
        The points that have both numbers, and the name of the setting along the lines.
    """
    from lightning_modules.reporting.figures.trade_off import TradeOffPoint  # here: a table needs no matplotlib

    accuracy = metric or CLEAN
    drawn = [point for point in points if accuracy in point.metrics and FID_OWN in point.metrics]
    drawn = [point for point in drawn if all(math.isfinite(point.metrics[name].value) for name in (accuracy, FID_OWN))]
    varying = points[0].settings if points else {}
    numbers = [name for name in varying if all(isinstance(point.settings[name], int | float) for point in points)]
    along = "sigma" if "sigma" in numbers else next(iter(numbers), "")
    return [
        TradeOffPoint(
            label=point.label,
            quality=point.metrics[FID_OWN],
            accuracy=point.metrics[accuracy],
            group=", ".join(f"{name} {value}" for name, value in point.settings.items() if name != along) or "all",
            order=float(point.settings[along]) if along else float(place),
            mark=point.mark,
        )
        for place, point in enumerate(drawn)
    ], along


def heading(name: str) -> str:
    """A metric's name as a reader wants it: `test/jpeg/bit_accuracy` is `bit accuracy, jpeg`."""
    above, _, last = name.removeprefix("test/").rpartition("/")
    return _HEADINGS.get(name) or ", ".join(part for part in (last.replace("_", " "), above) if part)


def _shown(name: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return MISSING
    text = format_estimate(estimate, percent=name.endswith("accuracy"))
    return f"{text[:-1]}; {estimate.n:,})" if text.endswith(")") else f"{text} ({estimate.n:,})"


def _intervals(points: Sequence[SweepPoint], columns: Sequence[str]) -> str:
    kinds = {point.metrics[name].interval for point in points for name in columns if name in point.metrics}
    named = sorted(kind for kind in kinds if kind != "none")
    return f"Intervals: {', '.join(named)}." if named else ""


def _cells(estimate: Estimate | None) -> list[Any]:
    if estimate is None:
        return [""] * 4
    numbers = [estimate.value, estimate.low, estimate.high]
    return ["" if number is None or math.isnan(number) else repr(number) for number in numbers] + [estimate.n]
