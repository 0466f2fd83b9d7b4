"""What a fingerprint costs and what it brings: accuracy of the key against the quality of the images."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.figures.palette import FAINT, INK, MARKERS, PALETTE
from lightning_modules.reporting.figures.style import label_points, new_figure, styled, whiskers
from lightning_modules.reporting.formatting import format_number, format_percent, interval_name

_LINES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
_LEGEND_WIDTH, _SWATCH = 104, 8  # characters of its text that fit below the figure; what a line's sample takes
_LOG_FROM = 6.0  # ratio of largest to smallest FID from which the axis is logarithmic


@dataclass(frozen=True)
class TradeOffPoint:
    """One setting of a sweep."""

    label: str  # the setting in words, `"shift 48, sigma 2"`
    quality: Estimate  # FID, lower is better
    accuracy: Estimate  # a share in [0, 1], bit accuracy for instance
    group: str  # points of one group share a line: `"shift 48"`
    order: float  # place along the line, written beside the point: sigma
    mark: bool = False  # whether this is the operating point


@styled
def trade_off_figure(
    points: Sequence[TradeOffPoint],
    *,
    quality_name: str = "FID",
    accuracy_name: str = "bit accuracy",
    order_name: str = "",
) -> Figure:
    """Accuracy (up is better) against FID (left is better), one line a group, intervals as whiskers.

    A point whose accuracy or quality is NaN is left out, and the figure says how many were. The FID's axis is
    logarithmic where the largest is 6 times the smallest. `order_name` says what the numbers beside the points are.

    Raises:
        ValueError: no point with both numbers.
    """
    known = [point for point in points if math.isfinite(point.accuracy.value) and math.isfinite(point.quality.value)]
    if not known:
        raise ValueError(
            f"found {len(points)} points, none with both an accuracy and an FID; expected at least one to draw"
        )
    figure = new_figure(7.4, 4.9)
    axes = figure.add_subplot()
    groups: dict[str, list[TradeOffPoint]] = {}
    for point in known:
        groups.setdefault(point.group, []).append(point)
    lines = []
    for place, (group, members) in enumerate(groups.items()):
        members.sort(key=lambda point: point.order)
        lines.append(_draw_group(axes, group, members, place))
    _mark(axes, [point for point in known if point.mark])
    _scales(axes, known)
    axes.set_xlabel(f"{quality_name} (lower is better)")
    axes.set_ylabel(textwrap.fill(f"{accuracy_name} (higher is better)", 42))
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    longest = max(len(str(handle.get_label())) for handle in axes.lines)
    figure.legend(
        loc="outside lower center",
        ncols=max(1, min(4, len(groups) + 1, _LEGEND_WIDTH // (longest + _SWATCH))),
        handlelength=3,
        title="\n".join(_notes(points, known, order_name)) or None,
        title_fontsize=8.5,
    )
    drawn = lines + [[_place(point), end] for point in known for end in _whisker_ends(point)]
    label_points(figure, axes, [_place(point) for point in known], [f"{point.order:g}" for point in known], drawn)
    return figure


def _place(point: TradeOffPoint) -> tuple[float, float]:
    return point.quality.value, point.accuracy.value


def _whisker_ends(point: TradeOffPoint) -> list[tuple[float, float]]:
    x, y = _place(point)
    across = [(end, y) for end in (point.quality.low, point.quality.high) if end is not None]
    return across + [(x, end) for end in (point.accuracy.low, point.accuracy.high) if end is not None]


def _draw_group(axes: Axes, group: str, members: Sequence[TradeOffPoint], place: int) -> list[tuple[float, float]]:
    corners = [_place(point) for point in members]
    colour = PALETTE[place % len(PALETTE)]
    axes.plot(
        *zip(*corners, strict=True),
        color=colour,
        linestyle=_LINES[place % len(_LINES)],
        marker=MARKERS[place % len(MARKERS)],
        linewidth=1.6,
        markersize=6,
        label=group,
        zorder=4,
    )
    for (x, y), point in zip(corners, members, strict=True):
        across, upright = whiskers(point.quality), whiskers(point.accuracy)
        axes.errorbar(x, y, upright, across, "none", color=colour, alpha=0.75, linewidth=1, capsize=2, zorder=3)
    return corners


def _mark(axes: Axes, marked: Sequence[TradeOffPoint]) -> None:
    for place, point in enumerate(marked):
        axes.plot(
            *_place(point),
            linestyle="none",
            marker="o",
            markersize=14,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=1.6,
            label=f"operating point: {point.label}" if len(marked) == 1 or not place else None,
            zorder=6,
        )


def _scales(axes: Axes, points: Sequence[TradeOffPoint]) -> None:
    values = [point.quality.value for point in points]
    if min(values) > 0 and max(values) >= _LOG_FROM * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value, 1)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.08)
    spread = axes.get_ylim()[1] - axes.get_ylim()[0]
    decimals = 1 if spread < 0.05 else 0
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_percent(value, decimals)))


def _notes(points: Sequence[TradeOffPoint], known: Sequence[TradeOffPoint], order_name: str) -> list[str]:
    notes = [f"numbers at the points: {order_name}"] if order_name else []
    intervals = {interval_name(part) for point in known for part in (point.accuracy, point.quality) if whiskers(part)}
    if intervals:
        notes.append(f"whiskers: {' / '.join(sorted(intervals))}")
    if left_out := len(points) - len(known):
        notes.append(f"{left_out} of {len(points)} settings left out: without accuracy or FID")
    return notes
