"""Robustness curves: an accuracy against the strength of an attack, a panel for each kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_modules.attacks.curves import Curve
from lightning_modules.attacks.registry import curves as attack_curves
from lightning_modules.metrics.intervals import Estimate, bits_needed
from lightning_modules.reporting.figures.palette import ACCENT, FAINT, INK, MUTED
from lightning_modules.reporting.figures.style import new_figure, styled
from lightning_modules.reporting.formatting import format_percent, interval_name

_NEEDED = "#d55e00"


def needed_line(bits: int, false_positive_rate: float) -> tuple[float, str] | None:
    """Share of a key's bits that must match where bits alone count, and what to say of it; None where none suffice."""
    if (needed := bits_needed(bits, false_positive_rate)) is None:
        return None
    rate = f"{false_positive_rate:.0e}".replace("e-0", "e-")
    return needed / bits, f"what matching bits alone need at a false-positive rate of {rate}: {needed} of {bits}"


@styled
def robustness_curves(
    curves: Mapping[str, Sequence[tuple[float, Estimate]]],
    *,
    of: str = "bit accuracy",
    clean: Estimate | None = None,
    chance: float = 0.5,
    needed: tuple[float, str] | None = None,
) -> Figure:
    """An accuracy against strength, with intervals, beside chance and what is needed of it.

    Every panel gets stronger to the right: JPEG's quality falls. Images without attack stand at the left end.

    Args:
        curves: points (strength, accuracy) by kind of attack; kinds without points get no panel.
        of: what the accuracy is called.
        clean: accuracy without attack.
        chance: accuracy of guessing.
        needed: height and meaning of a dashed line (`needed_line`); None for none.

    Raises:
        ValueError: an unknown kind, or no point at all.
    """
    known = attack_curves()
    if unknown := sorted(set(curves) - set(known)):
        raise ValueError(f"found curves of {unknown}; expected kinds of {list(known)}")
    kinds = [kind for kind in known if any(not math.isnan(estimate.value) for _, estimate in curves.get(kind, ()))]
    if not kinds:
        raise ValueError("found no point to draw; expected (strength, accuracy) pairs of at least one kind")
    figure = new_figure(max(4.6, 2.6 * len(kinds) + 0.3), 3.35)
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        _draw(axes, known[kind], curves[kind], clean, of)
        axes.axhline(chance, color=MUTED, linestyle=(0, (1, 2)), linewidth=1.1, label="chance")
        if needed is not None:
            axes.axhline(needed[0], color=_NEEDED, linestyle=(0, (5, 3)), linewidth=1.3, label=needed[1])
    shown = [estimate.value for kind in kinds for _, estimate in curves[kind] if not math.isnan(estimate.value)]
    lowest = min(chance - 0.04, min(shown) - 0.04)
    panels[0].set_ylim(lowest, 1.025)
    panels[0].set_yticks([tick / 10 for tick in range(11) if tick / 10 >= lowest])
    panels[0].yaxis.set_major_formatter(lambda value, _: format_percent(value, 0))
    panels[0].set_ylabel(of)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3 if len(kinds) > 2 else 1, handlelength=2.6)
    return figure


def _draw(axes: Axes, panel: Curve, points: Sequence[tuple[float, Estimate]], clean: Estimate | None, of: str) -> None:
    sign = -1 if panel.weaker_is_larger else 1
    known = sorted(((s, e) for s, e in points if not math.isnan(e.value)), key=lambda point: sign * point[0])
    strengths = [strength for strength, _ in known]
    ticks = strengths
    if clean is not None and not math.isnan(clean.value):
        # there is no quality that leaves an image as it is: a step beyond the best one
        none = strengths[0] + 0.12 * max(1.0, strengths[0] - strengths[-1]) if panel.weaker_is_larger else 0.0
        known.insert(0, (none, clean))
        ticks = [none, *strengths]
    places, values = zip(*((strength, estimate.value) for strength, estimate in known), strict=True)
    bounded = [(s, e.value, e.low, e.high) for s, e in known if e.low is not None and e.high is not None]
    label = of
    if bounded:
        across, centres, lows, highs = np.array(bounded).T
        axes.fill_between(across, lows, highs, color=ACCENT, alpha=0.18, linewidth=0)
        reach = np.maximum(0.0, [centres - lows, highs - centres])
        axes.errorbar(across, centres, yerr=reach, fmt="none", ecolor=ACCENT, elinewidth=1, capsize=2)
        label += f" ({interval_name(next(estimate for _, estimate in known if estimate.low is not None))})"
    axes.plot(places, values, color=ACCENT, linewidth=1.7, marker="o", markersize=4, label=label, zorder=4)
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(panel.axis)
    names = [f"{tick:g}" for tick in ticks]
    if len(ticks) > len(strengths):
        names[0] = "none"
    _set_ticks(axes, ticks, names)
    if panel.weaker_is_larger:
        axes.invert_xaxis()
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(color=MUTED, labelcolor=INK)


def _set_ticks(axes: Axes, ticks: Sequence[float], names: Sequence[str]) -> None:
    """Name the strengths that were measured, but not two so near to each other that their names would touch."""
    span = max(ticks) - min(ticks) or 1.0
    kept: list[int] = []
    for place in range(len(ticks)):
        room = 0.045 * (len(names[place]) + len(names[kept[-1]]) + 1) / 2 if kept else 0.0
        if not kept or abs(ticks[place] - ticks[kept[-1]]) / span >= room:
            kept.append(place)
    axes.set_xticks([ticks[place] for place in kept], [names[place] for place in kept])


_STAGES = {"train": (ACCENT, "-", "o"), "val": ("#d55e00", "--", "s"), "test": ("#222222", ":", "D")}
_OTHERS = (("#009e73", "-.", "^"), ("#cc79a7", "-", "v"))


@styled
def training_curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """How loss, accuracy or any other metric went from epoch to epoch.

    Args:
        curves: points (epoch, value) by `stage/metric`, `"val/accuracy"` for instance; metrics of one name share a
            panel.

    Raises:
        ValueError: no curve has a point.
    """
    panels: dict[str, dict[str, Sequence[tuple[float, float]]]] = {}
    for name, points in curves.items():
        stage, _, metric = name.partition("/")
        if points:
            panels.setdefault(metric or name, {})[stage if metric else ""] = points
    if not panels:
        raise ValueError("found no point to draw; expected (epoch, value) pairs of at least one curve")
    figure = new_figure(3.7 * len(panels) + 0.4, 2.9)
    for axes, (metric, stages) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        others = iter(_OTHERS * len(stages))
        for stage, points in stages.items():
            colour, line, marker = _STAGES.get(stage) or next(others)
            epochs, values = zip(*points, strict=True)
            shown = marker if len(points) <= 30 else None  # more would hide the line
            look = {"color": colour, "linestyle": line, "linewidth": 1.7, "marker": shown, "markersize": 3.5}
            axes.plot(epochs, values, **look, label=stage or metric)
        axes.set_title(metric.replace("_", " "), loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(color=MUTED)
        if len(stages) > 1 or "" not in stages:
            axes.legend(loc="best", handlelength=2.6)
    return figure
