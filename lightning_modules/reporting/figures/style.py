"""One look for all figures: palette, fonts, colour and marker of each source, labels beside points."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from numpy.typing import ArrayLike, NDArray

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.figures.palette import INK, MARKERS, MUTED, PALETTE, REAL

P = ParamSpec("P")
R = TypeVar("R")

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


def whiskers(estimate: Estimate) -> list[list[float]] | None:
    """How far the interval reaches below and above the value, as matplotlib's `errorbar` takes it; None without one."""
    if estimate.low is None or estimate.high is None:
        return None
    return [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]


def as_array(values: ArrayLike) -> NDArray[Any]:
    """Tensors of any device, arrays and lists as an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def enlarged(tile: NDArray[Any], pixels: int = 128) -> NDArray[Any]:
    """A tile `(h, w, 3)` enlarged by a whole factor to about so many pixels, so that its pixels stay square."""
    factor = max(1, pixels // max(tile.shape[:2]))
    return tile.repeat(factor, axis=0).repeat(factor, axis=1)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches. No pyplot: nothing global, nothing to close, no display needed."""
    return Figure(figsize=(width, height), layout="constrained")


def to_png(figure: Figure, dpi: int = 170) -> bytes:
    """The figure as PNG bytes, the same for the same figure."""
    buffer = BytesIO()
    with mpl.rc_context(_SETTINGS):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


# --- labels beside points, each where it hides least

Box = tuple[float, float, float, float]  # left, bottom, right, top, in points of the figure
_LINE = 1.25  # height of a line of text, in font sizes
# first choice first: right above, right below, left above, left below, above, below, right, left; then farther out
_SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
_REACHES = (5.0, 13.0, 22.0, 32.0, 43.0)
_LED_FROM = 13.0  # from this reach a thin line leads from the label to its point

_LEADER = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}


def label_points(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    lines: Sequence[Sequence[tuple[float, float]]] = (),
    fontsize: float = 8,
) -> list[Annotation]:
    """Write a text of one line beside each point, on the side where it covers fewest labels, points and lines.

    Call it last: it needs the final limits, and draws the figure once to know where the points are. Points and the
    corners of lines are data coordinates; empty texts are left out.
    """
    figure.draw_without_rendering()
    scale = 72 / figure.dpi
    area = axes.get_window_extent()
    frame = (area.x0 * scale, area.y0 * scale, area.x1 * scale, area.y1 * scale)
    places = axes.transData.transform(np.asarray(points, dtype=float).reshape(-1, 2)) * scale  # (N, 2)
    obstacles = [places, *(_along(axes.transData.transform(np.asarray(line, dtype=float)) * scale) for line in lines)]
    dots = np.concatenate(obstacles)
    taken: list[Box] = []
    made = []
    for point, place, text in zip(points, places, texts, strict=True):
        if not text:
            continue
        width, height = 0.62 * fontsize * len(text), _LINE * fontsize
        choices = [(x * reach, y * reach) for reach in _REACHES for x, y in _SIDES]
        boxes = [_box(place, offset, width, height) for offset in choices]
        costs = [_cost(box, dots, taken, frame) + 0.4 * (rank // len(_SIDES)) for rank, box in enumerate(boxes)]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        x, y = choices[best]
        made.append(
            axes.annotate(
                text,
                point,
                xytext=(x, y),
                textcoords="offset points",
                ha=("center", "left", "right")[int(np.sign(x))],
                va=("center", "bottom", "top")[int(np.sign(y))],
                fontsize=fontsize,
                arrowprops=_LEADER if max(abs(x), abs(y)) >= _LED_FROM else None,
                zorder=8,
            )
        )
    return made


def _along(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points every few units along a line of corners `(N, 2)`."""
    steps = np.linspace(0, 1, 25)[:, None]
    parts = [start + steps * (end - start) for start, end in itertools.pairwise(corners)]
    return np.concatenate([corners, *parts])


def _box(place: NDArray[np.float64], offset: tuple[float, float], width: float, height: float) -> Box:
    x, y = place + np.asarray(offset)
    left = x - width * (1 - np.sign(offset[0])) / 2
    bottom = y - height * (1 - np.sign(offset[1])) / 2
    return left, bottom, left + width, bottom + height


def _cost(label: Box, dots: NDArray[np.float64], taken: Sequence[Box], frame: Box) -> float:
    left, bottom, right, top = label
    margin = 2.5
    low, high = np.array([left, bottom]) - margin, np.array([right, top]) + margin
    inside = ((dots > low) & (dots < high)).all(axis=1)
    overlaps = sum(
        left < box[2] + margin and box[0] < right + margin and bottom < box[3] + margin and box[1] < top + margin
        for box in taken
    )
    outside = left < frame[0] or bottom < frame[1] or right > frame[2] or top > frame[3]
    return float(inside.sum()) * 0.3 + 20.0 * overlaps + 50.0 * outside
