"""Accuracies with their intervals against chance: per source, and per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.figures.palette import ACCENT, FAINT, INK, MUTED
from lightning_modules.reporting.figures.style import new_figure, source_styles, styled, whiskers
from lightning_modules.reporting.formatting import format_percent, interval_name


def per_source_accuracy(estimates: Mapping[str, Estimate], *, chance: float | None = None) -> Figure:
    """Share of each source's images that are named rightly, with interval, number of images and the chance level."""
    styles = source_styles(list(estimates))
    colours = [styles[source].colour for source in estimates]
    return _bars(estimates, colours, chance, "accuracy on the source's images")


def method_accuracy(
    estimates: Mapping[str, Estimate], *, chance: float | None = None, highlight: Sequence[str] = ()
) -> Figure:
    """Accuracy of methods or controls, with interval and the chance level; single seeds (`values`) as dots.

    The methods of `highlight`, which the reader should look at first, stand out; the others are grey.
    """
    colours = [ACCENT if not highlight or method in highlight else "#9a9a9a" for method in estimates]
    return _bars(estimates, colours, chance, "accuracy")


@styled
def _bars(estimates: Mapping[str, Estimate], colours: Sequence[str], chance: float | None, label: str) -> Figure:
    if not estimates:
        raise ValueError("found no accuracies to draw; expected at least one estimate")
    longest = max(len(name) for name in estimates)
    figure = new_figure(6.4 + 0.05 * longest, 0.34 * len(estimates) + 1.05)
    axes = figure.add_subplot()
    for place, (estimate, colour) in enumerate(zip(estimates.values(), colours, strict=True)):
        if np.isnan(estimate.value):
            axes.text(0.01, place, "no images", va="center", color=MUTED, fontsize=8)
            continue
        axes.barh(place, estimate.value, height=0.62, color=colour, alpha=0.85, zorder=2)
        end = estimate.value
        if estimate.low is not None and estimate.high is not None:
            axes.errorbar(end, place, xerr=whiskers(estimate), color=INK, capsize=3, linewidth=1.2, zorder=4)
            end = max(end, estimate.high)
        values = estimate.details.get("values", [])
        values = values if len(values) > 1 else []  # one seed is the bar itself
        axes.scatter(values, [place] * len(values), s=14, color="white", edgecolor=INK, linewidth=0.8, zorder=5)
        axes.annotate(
            format_percent(estimate.value),
            (max([end, *values]), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
            zorder=6,
        )
    if chance is not None:
        axes.axvline(chance, color=INK, linestyle=(0, (4, 3)), linewidth=1.1, zorder=3)
        axes.annotate(
            f"chance {format_percent(chance)}",
            (chance, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
        )
    axes.set_yticks(range(len(estimates)), list(estimates))
    axes.set_ylim(len(estimates) - 0.45, -0.55)
    axes.set_xlim(0, 1.09)  # room for the number of a bar at 100 %
    axes.set_xticks(np.linspace(0, 1, 6), [f"{share:.0%}" for share in np.linspace(0, 1, 6)])
    axes.grid(axis="x", color=FAINT, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{label}; {_support(list(estimates.values()))}")
    return figure


def _support(estimates: Sequence[Estimate]) -> str:
    """What the whiskers are and how much stands behind them."""
    intervals = sorted({interval_name(estimate) for estimate in estimates if estimate.interval != "none"})
    counts = sorted({estimate.n for estimate in estimates})
    span = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    told = f"whiskers: {' / '.join(intervals)}, " if intervals else ""
    dots = "; dots: single seeds" if any(len(estimate.details.get("values", [])) > 1 for estimate in estimates) else ""
    return f"{told}n = {span}{dots}"


@styled
def confusion_matrix(counts: ArrayLike, sources: Sequence[str]) -> Figure:
    """Counts `(K, K)` of integers, rows = true source, columns = predicted, shaded by their share of the row.

    Raises:
        ValueError: the shape does not fit the names.
    """
    matrix = np.asarray(counts)
    k = len(sources)
    if matrix.shape != (k, k):
        raise ValueError(f"confusion matrix has shape {matrix.shape} for {k} sources; expected ({k}, {k})")
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros((k, k)), where=totals > 0)
    cell = 0.72 if k <= 8 else 0.58 if k <= 12 else 0.44
    longest = max(len(source) for source in sources)
    figure = new_figure(max(4.2, k * cell + 0.075 * longest + 1.6), max(3.4, k * cell + 0.055 * longest + 1.0))
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    with_share = k <= 12  # a second line would not fit into the smaller cells
    for row in range(k):
        for column in range(k):
            count, share = int(matrix[row, column]), shares[row, column]
            if not totals[row, 0]:
                text = "–"
            else:
                text = f"{count:,}\n{100 * share:.0f}%" if with_share and count else f"{count:,}"
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                linespacing=1.15,
                fontsize=8 if with_share else 7 if matrix.max() < 10_000 else 6,
                fontweight="bold" if row == column else "normal",
                color="white" if share > 0.5 else MUTED if not count else INK,
            )
    axes.set_xticks(range(k), sources, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), sources)
    axes.set_xlabel("predicted source")
    axes.set_ylabel("true source")
    axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, format=lambda share, _: f"{100 * share:.0f}%")
    bar.set_label("share of the true source's images")
    bar.outline.set_visible(False)
    return figure
