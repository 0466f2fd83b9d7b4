"""The tables of a comparison: experiments by metric, strengths by experiment, differences, every number."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.curve_families import Family, is_share, metric_title
from lightning_modules.reporting.differences import Difference
from lightning_modules.reporting.experiments import Group, Spread, text
from lightning_modules.reporting.formatting import (
    MISSING,
    format_estimate,
    format_interval,
    format_number,
    format_percent,
    format_spread,
)
from lightning_modules.reporting.page import Cell, Number, Table

# in the CSV, but too many or too constant for a table to read
_MINOR = (
    "*/recall/*",
    "*/chance",
    "*/majority",
    "*/fdr_null",
    "*/trivial/*",
    "*/negatives/*",
    "*/identification_*",
    "*/tpr_bits_at_*",
    "*/changed_images",
)
_MINOR_ATTACKED = ("test/*/cross_entropy", "test/*/calibration_error")
_CAPTION = "Mean ± sample standard deviation over seeds; of one seed alone, its interval over images in brackets."
_DIFFERENCES = (
    "Each experiment less {base}, shares in percentage points. Clear: the 95 % interval leaves out 0; of twenty "
    "comparisons without any difference one is expected to. Paired over images: both were tested on the same ones. "
    "Independent: the intervals of both combined, which is wider than need be where images are the same."
)
MOST_COLUMNS = 8
"""More metrics than these stand in rows, experiments in columns."""
MOST_COLUMNS_OF_PAGE = 5


def metric_names(groups: Sequence[Group], patterns: Sequence[str] | None = None) -> list[str]:
    """Metrics that some experiment has and a shell pattern matches, sorted; None leaves out those of less interest.

    Raises:
        ValueError: a pattern matches no metric.
    """
    names = sorted({name for group in groups for name in group.metrics})
    if patterns is None:
        attacks = {one.attack for group in groups for one in group.conditions.values() if one.on_curve}
        return [name for name in names if not _is_minor(name, attacks)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"no metric matches {pattern!r}; the runs have {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _is_minor(name: str, attacks: Iterable[str]) -> bool:
    minor = any(fnmatchcase(name, pattern) for pattern in (*_MINOR, *_MINOR_ATTACKED))
    return minor or any(part in attacks for part in name.split("/"))  # those are on the curves


def results_table(groups: Sequence[Group], names: Sequence[str], *, sortable: bool = False) -> Table:
    """Experiments by metric, or metric by experiment where there are many metrics; shares in percent."""
    if len(names) <= (MOST_COLUMNS_OF_PAGE if sortable else MOST_COLUMNS):
        rows: list[list[Cell]] = [
            [group.label, len(group.runs), *(_spread_cell(name, group) for name in names)] for group in groups
        ]
        return Table(["experiment", "seeds", *names], rows, _CAPTION, right=names, sortable=sortable)
    columns = [f"{group.label}, {len(group.runs)} seeds" if len(group.runs) > 1 else group.label for group in groups]
    rows = [[name, *(_spread_cell(name, group) for group in groups)] for name in names]
    return Table(["metric", *columns], rows, _CAPTION, right=columns, sortable=sortable)


def curve_table(family: Family) -> Table:
    """The numbers of a metric's curves: kind of attack and strength by experiment."""
    places = sorted({line.place: line.label for panel in family.panels for line in panel.lines}.items())
    columns = [label for _, label in places]
    rows: list[list[Cell]] = []
    for panel in family.panels:
        lines = {line.place: line for line in panel.lines}
        if not rows:
            rows.append(["none", None, *(lines[place].clean if place in lines else None for place, _ in places)])
        for strength in panel.strengths:
            points = {place: dict(line.points) for place, line in lines.items()}
            found = [points.get(place, {}).get(strength) for place, _ in places]
            rows.append([panel.curve.title, Number(f"{strength:g}", strength), *found])
    if all(cell is None for cell in rows[0][2:]):
        del rows[0]
    right = ["strength", *columns]
    return Table(["attack", "strength", *columns], rows, percent=columns if family.share else [], right=right)


def difference_table(found: Sequence[Difference], *, sortable: bool = False) -> Table:
    """One row a difference: of what, both numbers' difference with its interval, whether it is clear, and how."""
    several = len({one.label for one in found}) > 1
    rows: list[list[Cell]] = []
    for one in found:
        estimate = one.estimate
        share = is_share(one.result.metric)
        where = one.result.part if one.result.attack == "clean" else f"{one.result.part}, {one.result.attack}"
        cells: list[Cell] = [
            metric_title(one.result.metric),
            where,
            Number(signed(estimate.value, share), estimate.value),
            Number(_signed_interval(estimate, share), estimate.low),
            MISSING if estimate.low is None else ("yes" if one.clear else "no"),
            Number(f"{estimate.n:,} seeds" if "over seeds" in estimate.interval else f"{estimate.n:,}", estimate.n),
            MISSING if estimate.low is None else estimate.interval,
        ]
        rows.append([one.label, *cells] if several else cells)
    columns = ["metric", "part and attack", "difference", "interval", "clear", "n", "how"]
    caption = _DIFFERENCES.format(base=found[0].base if found else "the first")
    right = ["difference", "interval", "n"]
    return Table(["experiment", *columns] if several else columns, rows, caption, right=right, sortable=sortable)


def numbers_table(groups: Sequence[Group]) -> Table:
    """Every number of every experiment, a row each."""
    rows: list[list[Cell]] = []
    for group in groups:
        for key, result in group.conditions.items():
            spread = group.results[key]
            strength = None if result.strength is None else Number(f"{result.strength:g}", result.strength)
            value = _number_cell(result.metric, spread, len(group.runs))
            rows.append([group.label, result.part, result.attack, strength, result.metric, value, spread.seeds])
    columns = ["experiment", "part", "attack", "strength", "metric", "value", "seeds"]
    return Table(columns, rows, _CAPTION, right=["strength", "value", "seeds"], sortable=True)


def metrics_csv(groups: Sequence[Group], names: Sequence[str]) -> str:
    """One line per experiment and metric of `metrics.json`: settings that differ, its spread; full precision."""
    settings = sorted({key for group in groups for key in group.settings})
    lines: list[list[Any]] = [["experiment", *settings, "metric", "mean", "std", "low", "high", "seeds"]]
    for group in groups:
        values = [text(group.settings.get(key)) for key in settings]
        for name in names:
            if name in group.metrics:
                spread = group.metrics[name]
                ends = (None, None) if spread.single is None else (spread.single.low, spread.single.high)
                lines.append([group.label, *values, name, *_exact(spread.mean, spread.std, *ends), spread.seeds])
    return _csv(lines)


def conditions_csv(groups: Sequence[Group]) -> str:
    """The long tables of all experiments as one: mean, spread over seeds and interval; full precision."""
    head = ["experiment", "part", "attack", "kind", "strength", "metric"]
    lines: list[list[Any]] = [[*head, "mean", "std", "low", "high", "interval", "seeds"]]
    for group in groups:
        for key, result in group.conditions.items():
            spread = group.results[key]
            one = spread.estimate()
            strength = "" if result.strength is None else f"{result.strength:g}"
            numbers = _exact(spread.mean, spread.std, one.low, one.high)
            where = [result.part, result.attack, result.kind, strength, result.metric]
            lines.append([group.label, *where, *numbers, one.interval, spread.seeds])
    return _csv(lines)


def differences_csv(found: Sequence[Difference]) -> str:
    """Every difference with its interval and how that was made; full precision."""
    head = ["experiment", "less", "part", "attack", "kind", "strength", "metric"]
    lines: list[list[Any]] = [[*head, "difference", "low", "high", "n", "how"]]
    for one in found:
        result, estimate = one.result, one.estimate
        strength = "" if result.strength is None else f"{result.strength:g}"
        where = [result.part, result.attack, result.kind, strength, result.metric]
        numbers = _exact(estimate.value, estimate.low, estimate.high)
        lines.append([one.label, one.base, *where, *numbers, estimate.n, estimate.interval])
    return _csv(lines)


def signed(value: float, share: bool) -> str:
    """A difference with its sign; of shares in percentage points: `+2.1`."""
    shown = f"{100 * abs(value):.1f}" if share else format_number(abs(value))
    return shown if float(shown.replace(",", "")) == 0 else f"{'-' if value < 0 else '+'}{shown}".replace("-", "−")


def _signed_interval(estimate: Estimate, share: bool) -> str:
    if estimate.low is None or estimate.high is None:
        return MISSING
    return f"{signed(estimate.low, share)} to {signed(estimate.high, share)}"


def _spread_cell(name: str, group: Group) -> Cell:
    spread = group.metrics.get(name)
    if spread is None:
        return MISSING
    shown = shown_spread(name, spread, len(group.runs))
    return Number(shown, spread.mean)


def shown_spread(name: str, spread: Spread, seeds: int) -> str:
    """A number over seeds as one reads it; of one seed alone with its interval."""
    share = is_share(name)
    over_seeds = format_spread(spread.mean, spread.std, percent=share)
    shown = over_seeds if spread.single is None else format_estimate(spread.single, percent=share)
    return shown if spread.seeds == seeds else f"{shown} ({spread.seeds} of {seeds} seeds)"


def _number_cell(metric: str, spread: Spread, seeds: int) -> Number:
    share = is_share(metric)
    if spread.single is None or spread.seeds != seeds:
        return Number(shown_spread(metric, spread, seeds), spread.mean)
    interval = format_interval(spread.single, percent=share)
    value = format_percent(spread.mean) if share else format_number(spread.mean)
    return Number(value, spread.mean, "" if interval == MISSING else interval)


def _exact(*numbers: float | None) -> list[str]:
    return ["" if one is None or math.isnan(one) else repr(one) for one in numbers]


def _csv(lines: Iterable[Sequence[Any]]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(lines)
    return written.getvalue()
