"""One look for all figures: palette, fonts, and the colour and marker that stand for a source everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

INK, MUTED, FAINT = "#222222", "#666666", "#d9d9d9"
REAL = "#222222"
ACCENT = "#0072b2"
# Okabe and Ito's palette (jfly.uni-koeln.de/color, 2008), without its yellow, which fades on white, and with a brown
# in its place.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f4f24")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so a figure looks the same on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
# The caller's own settings must not show; the backend is not a matter of look, and matplotlib would not give it back.
_SETTINGS: Any = {**{key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"}, **STYLE}


@dataclass(frozen=True)
class SourceStyle:
    """How one source is drawn in every figure."""

    colour: str
    marker: str


def source_styles(sources: Sequence[str]) -> dict[str, SourceStyle]:
    """Colour and marker of each source, by its position among `sources`: the same list gives the same look everywhere.

    Reals (`real`, `real-<name>`) are near black; the others take 7 colours that stay apart under the common kinds of
    colour blindness, and the next marker when the colours start again: 49 sources have their own look.
    """
    styles, fakes, reals = {}, 0, 0
    for source in sources:
        if source == "real" or source.startswith("real-"):
            styles[source] = SourceStyle(REAL, MARKERS[reals % len(MARKERS)])
            reals += 1
        else:
            turn, colour = divmod(fakes, len(PALETTE))
            styles[source] = SourceStyle(PALETTE[colour], MARKERS[turn % len(MARKERS)])
            fakes += 1
    return styles


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a figure function under this module's style, leaving the caller's matplotlib settings alone."""

    @functools.wraps(function)
    def with_style(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(_SETTINGS):
            return function(*args, **kwargs)

    return with_style


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches. No pyplot: nothing global, nothing to close, no display needed."""
    return Figure(figsize=(width, height), layout="constrained")


def to_png(figure: Figure, dpi: int = 170) -> bytes:
    """The figure as PNG bytes, the same for the same figure."""
    buffer = BytesIO()
    with mpl.rc_context(_SETTINGS):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
