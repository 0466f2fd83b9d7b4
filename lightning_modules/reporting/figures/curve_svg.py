"""Robustness curves as SVG for a page: drawn here, so that a comparison needs no matplotlib and follows light and dark.

Colours are classes `c0` ... `c6` of the page's style sheet (`STYLE`); markers and dashes tell lines apart without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.curve_families import Family, Line, Panel
from lightning_modules.reporting.figures.palette import ON_DARK, PALETTE
from lightning_modules.reporting.formatting import format_estimate, format_percent

WIDTH, HEIGHT = 340.0, 238.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 26.0, 40.0
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_SHAPES = ("circle", "triangle", "square", "diamond", "down", "plus", "cross")
_TICK_WIDTH = 6.2  # of a character of a tick's label

STYLE = Markup(
    ".curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 23rem), 1fr)); gap: .8rem; }\n"
    "@media (min-width: 60rem) { .curves.three { grid-template-columns: repeat(3, minmax(0, 1fr)); } }\n"
    ".curves svg { display: block; width: 100%; max-width: 34rem; height: auto; background: var(--card); "
    "border: 1px solid var(--line); border-radius: .4rem; }\n"
    ".curves text { fill: var(--ink); font: 10.5px system-ui, 'DejaVu Sans', sans-serif; }\n"
    ".curves .title { font-weight: 650; font-size: 12px; } .curves .soft { fill: var(--soft); }\n"
    ".curves .grid { stroke: var(--line); stroke-width: 1; }\n"
    ".curves .line { fill: none; stroke-width: 1.8; } .curves .bar { stroke-width: 1.1; opacity: .75; }\n"
    ".legend { display: flex; flex-wrap: wrap; gap: .25rem 1.2rem; margin: .6rem 0; padding: 0; font-size: .9rem; "
    "list-style: none; }\n"
    ".legend li { display: flex; align-items: center; gap: .45rem; overflow-wrap: anywhere; }\n"
    ".legend svg { flex: none; width: 34px; height: 14px; }\n"
    + "".join(f".c{i} {{ stroke: {colour}; fill: {colour}; }}\n" for i, colour in enumerate(PALETTE))
    + "@media (prefers-color-scheme: dark) { "
    + " ".join(f".c{i} {{ stroke: {colour}; fill: {colour}; }}" for i, colour in enumerate(ON_DARK))
    + " }\n"
)


def curve_markup(family: Family) -> Markup:
    """A metric's legend and panels, one for each kind of attack, all with the same vertical axis."""
    low, high, ticks = _vertical(family)
    lines = {line.place: line for panel in family.panels for line in panel.lines}
    legend = Markup("").join(
        Markup('<li><svg viewBox="0 0 34 14" aria-hidden="true">{}{}</svg>{}</li>').format(
            _path(line, [(1.0, 7.0), (33.0, 7.0)]), _marker(line, 17.0, 7.0), line.label
        )
        for _, line in sorted(lines.items())
    )
    panels = Markup("\n").join(_panel(family, panel, low, high, ticks) for panel in family.panels)
    three = " three" if len(family.panels) == 3 else ""
    return Markup('<ul class="legend">{}</ul>\n<div class="curves{}">\n{}\n</div>').format(legend, three, panels)


def _panel(family: Family, panel: Panel, low: float, high: float, ticks: Sequence[float]) -> Markup:
    across, names = _horizontal(panel)
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def down(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - _TOP)

    parts = [Markup('<text class="title" x="{:g}" y="16">{}</text>').format(_LEFT, panel.curve.title)]
    for tick in ticks:
        label = format_percent(tick, 0) if family.share else f"{tick:,.6g}"
        parts.append(
            Markup(
                '<line class="grid" x1="{:g}" x2="{:g}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text class="soft" x="{:g}" y="{:.1f}" text-anchor="end">{}</text>'
            ).format(_LEFT, right, down(tick), down(tick), _LEFT - 6, down(tick) + 3.5, label)
        )
    for place, name in names:
        parts.append(
            Markup('<text class="soft" x="{:.1f}" y="{:g}" text-anchor="middle">{}</text>').format(
                place, bottom + 15, name
            )
        )
    middle = (_LEFT + right) / 2
    parts.append(
        Markup('<text x="{:g}" y="{:g}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 8, panel.curve.axis)
    )
    for line in panel.lines:
        parts += _drawn(family, panel, line, across, down)
    told = f"{family.title} against {panel.curve.title} ({panel.curve.axis}) of {len(panel.lines)} experiments"
    return Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">\n{}\n</svg>').format(
        WIDTH, HEIGHT, told, Markup("\n").join(parts)
    )


def _drawn(
    family: Family, panel: Panel, line: Line, across: Callable[[float | None], float], down: Callable[[float], float]
) -> list[Markup]:
    """A line, with whiskers, markers and what each point says when it is pointed at."""
    sign = -1 if panel.curve.weaker_is_larger else 1
    points: list[tuple[float | None, Estimate]] = [*sorted(line.points, key=lambda point: sign * point[0])]
    if line.clean is not None and math.isfinite(line.clean.value):
        points.insert(0, (None, line.clean))
    parts = [_path(line, [(across(strength), down(estimate.value)) for strength, estimate in points])]
    for strength, estimate in points:
        x, y = across(strength), down(estimate.value)
        if estimate.low is not None and estimate.high is not None:
            top, bottom = down(estimate.high), down(estimate.low)
            d = f"M{x:.1f} {top:.1f}V{bottom:.1f}M{x - 3:.1f} {top:.1f}h6M{x - 3:.1f} {bottom:.1f}h6"
            parts.append(Markup('<path class="bar {}" d="{}"/>').format(_colour(line), d))
        where = "no attack" if strength is None else f"{panel.curve.title} {strength:g}"
        said = f"{line.label}, {where}: {format_estimate(estimate, percent=family.share)}, n = {estimate.n:,}"
        parts.append(Markup("<g><title>{}</title>{}</g>").format(said, _marker(line, x, y)))
    return parts


def _path(line: Line, points: Sequence[tuple[float, float]]) -> Markup:
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = _DASHES[(line.place // len(PALETTE)) % len(_DASHES)]
    return Markup('<polyline class="line {}" style="fill:none" stroke-dasharray="{}" points="{}"/>').format(
        _colour(line), dash or "none", corners
    )


def _marker(line: Line, x: float, y: float) -> Markup:
    shape, r = _SHAPES[line.place % len(_SHAPES)], 3.4
    drawn = {
        "circle": f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z",
        "triangle": f"M{x:.1f} {y - r - 0.6:.1f}l{r + 0.4} {2 * r}h{-2 * r - 0.8}Z",
        "square": f"M{x - r + 0.4:.1f} {y - r + 0.4:.1f}h{2 * r - 0.8}v{2 * r - 0.8}h{-2 * r + 0.8}Z",
        "diamond": f"M{x:.1f} {y - r - 0.8:.1f}l{r + 0.8} {r + 0.8}l{-r - 0.8} {r + 0.8}l{-r - 0.8} {-r - 0.8}Z",
        "down": f"M{x:.1f} {y + r + 0.6:.1f}l{r + 0.4} {-2 * r}h{-2 * r - 0.8}Z",
        "plus": f"M{x - r:.1f} {y:.1f}h{2 * r}M{x:.1f} {y - r:.1f}v{2 * r}",
        "cross": f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}M{x - r:.1f} {y + r:.1f}l{2 * r} {-2 * r}",
    }[shape]
    width = 2 if shape in ("plus", "cross") else 0.6
    return Markup('<path class="{}" stroke-width="{}" d="{}"/>').format(_colour(line), width, drawn)


def _colour(line: Line) -> str:
    return f"c{line.place % len(PALETTE)}"


def _vertical(family: Family) -> tuple[float, float, list[float]]:
    """Ends and ticks of the vertical axis that all panels share: every interval inside, 0 or 100 % where near."""
    ends: list[float] = []
    for line in (line for panel in family.panels for line in panel.lines):
        estimates = [estimate for _, estimate in line.points] + ([line.clean] if line.clean is not None else [])
        for one in estimates:
            ends += [end for end in (one.value, one.low, one.high) if end is not None and math.isfinite(end)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    if family.share:
        low, high = max(0.0, low), min(1.0, high)
    else:
        low = min(0.0, low)
    step = _step((high - low) or 1.0)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [number * step for number in range(first, max(last, first + 1) + 1)]
    return ticks[0], ticks[-1], ticks


def _step(span: float) -> float:
    """A round step that gives four to seven ticks."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if span / (factor * power) <= 6)


def _horizontal(panel: Panel) -> tuple[Callable[[float | None], float], list[tuple[float, str]]]:
    """Where a strength lies (None: no attack), weaker attacks to the left; and the ticks that there is room for."""
    strengths = panel.strengths
    clean = any(line.clean is not None for line in panel.lines)
    sign = -1.0 if panel.curve.weaker_is_larger else 1.0
    # there is no quality that leaves an image as it is: a step beyond the best one
    step = 0.12 * max(1.0, abs(strengths[0] - strengths[-1]))
    none = strengths[0] + step if panel.curve.weaker_is_larger else min(0.0, strengths[0])
    first = none if clean else strengths[0]
    span = sign * (strengths[-1] - first) or 1.0
    left, right = _LEFT + 8, WIDTH - _RIGHT - 8

    def across(strength: float | None) -> float:
        return left + sign * ((none if strength is None else strength) - first) / span * (right - left)

    wanted = [(across(None), "none")] if clean else []
    wanted += [(across(strength), f"{strength:g}") for strength in strengths]
    kept: list[tuple[float, str]] = []
    for place, name in wanted:
        if not kept or place - kept[-1][0] >= _TICK_WIDTH * (len(name) + len(kept[-1][1]) + 1) / 2:
            kept.append((place, name))
    return across, kept
