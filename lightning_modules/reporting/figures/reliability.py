"""Reliability of decoded bits: how often bits of a stated probability are right, a panel for each condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from lightning_modules.reporting.figures.palette import ACCENT, FAINT, INK, MUTED
from lightning_modules.reporting.figures.style import new_figure, styled
from lightning_modules.reporting.formatting import format_percent

COLUMNS = 4
Bins = Sequence[tuple[float, float, int]]
"""Stated probability, share of right bits and number of bits, of each bin that has any."""


@styled
def reliability_curves(conditions: Mapping[str, Bins]) -> Figure:
    """Share of right bits against their mean stated probability; on the diagonal where a decoder knows how sure it is.

    Dots are as large as the share of all bits that they stand for.

    Args:
        conditions: bins by the condition's name, in the order shown.

    Raises:
        ValueError: no bin at all.
    """
    shown = {name: bins for name, bins in conditions.items() if bins}
    if not shown:
        raise ValueError("found no bin to draw, expected those of one condition at least")
    rows = -(-len(shown) // COLUMNS)
    columns = min(COLUMNS, len(shown))
    figure = new_figure(max(3.2, 2.2 * columns + 0.5), 2.15 * rows + 0.35)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, (name, bins) in zip(panels, shown.items(), strict=False):
        stated, right, counts = zip(*bins, strict=True)
        axes.plot([0.5, 1.0], [0.5, 1.0], color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)))
        axes.plot(stated, right, color=ACCENT, linewidth=1.4)
        sizes = [4.0 + 110.0 * count / sum(counts) for count in counts]
        axes.scatter(stated, right, s=sizes, color=ACCENT, zorder=3)
        axes.set_title(name, loc="left", fontsize=8)
        axes.grid(color=FAINT, linewidth=0.7)
        axes.tick_params(color=MUTED, labelcolor=INK)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    lowest = min(0.5, min(share for bins in shown.values() for _, share, _ in bins))
    panels[0].set_xlim(0.49, 1.01)
    panels[0].set_ylim(lowest - 0.03, 1.03)
    for axis in (panels[0].xaxis, panels[0].yaxis):
        axis.set_major_formatter(lambda value, _: format_percent(value, 0))
    figure.supxlabel("stated probability of a bit", fontsize=9)
    figure.supylabel("bits that are right", fontsize=9)
    return figure
