"""Confusion matrix: which source is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_modules.reporting.figures.style import INK, MUTED, new_figure, styled


@styled
def confusion_matrix(counts: ArrayLike, sources: Sequence[str]) -> Figure:
    """Counts, shaded by the share of each row.

    Args:
        counts: `(K, K)` integers, rows = true source, columns = predicted.
        sources: K names; legible up to about 20.

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
