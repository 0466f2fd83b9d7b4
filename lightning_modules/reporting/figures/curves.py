"""Training curves: one panel per metric, one line per stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_modules.reporting.figures.style import ACCENT, FAINT, MUTED, new_figure, styled

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
            few = len(points) <= 30  # more markers would hide the line
            axes.plot(
                epochs,
                values,
                color=colour,
                linestyle=line,
                linewidth=1.7,
                marker=marker if few else None,
                markersize=3.5,
                label=stage or metric,
            )
        axes.set_title(metric.replace("_", " "), loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(color=MUTED)
        if len(stages) > 1 or "" not in stages:
            axes.legend(loc="best", handlelength=2.6)
    return figure
