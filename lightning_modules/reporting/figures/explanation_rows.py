"""Rows of single images: what the attributor sees of each, its spectrum, and which pixels the answer hangs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lightning_modules.evaluation.explanations import Explanation, Explanations
from lightning_modules.reporting.figures.palette import FAINT, INK, MUTED, PALETTE
from lightning_modules.reporting.figures.style import as_array, new_figure, styled
from lightning_modules.reporting.formatting import format_number, format_percent

_FACTORS = tuple(digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5))
_TILE, _MARGIN = 128, 5  # pixels
_CELL, _TEXT, _NAME = 0.86, 3.3, 1.1  # inches of a tile with margin, of the text beside it, of the names of sources
_WIDEST = 10.4
_MAP = "inferno"
_MOST_DEVIATIONS = 3.0
_WRONG = PALETTE[5]
_LIKE_PIXELS = 4.0  # a range that reaches so much farther to one side of 0 than to the other is no difference
SEEN = "seen/"


@dataclass(frozen=True)
class Column:
    """How one kind of picture is drawn in all rows.

    Attributes:
        name: Of the tensor.
        title: Above the column.
        scale: In words and numbers.
        low: Value that is drawn black (of a vector: at the bottom), and
        high: white.
        mean, spread: Of each number of a vector over the rows; None for pictures.
    """

    name: str
    title: str
    scale: str
    low: float = 0.0
    high: float = 1.0
    mean: NDArray[np.float64] | None = None
    spread: NDArray[np.float64] | None = None


def columns_of(found: Explanations) -> list[Column]:
    """The columns for which there are pictures, with the scale that their values ask for, one for all rows."""
    there: dict[str, list[NDArray[np.float64]]] = {}
    for example in found.examples:
        for name, tensor in example.tensors.items():
            there.setdefault(name, []).append(as_array(tensor).astype(np.float64))
    order = ["image", *sorted(name for name in there if name.startswith(SEEN)), "spectrum", "saliency"]
    return [_column(name, there[name]) for name in order if name in there]


def _column(name: str, values: Sequence[NDArray[np.float64]]) -> Column:
    if name == "image":
        return Column(name, "image", "as it is")
    if name == "saliency":
        return Column(name, "saliency", "black: 0, bright: its own largest value, which stands beside it", 0, 1)
    flat = np.concatenate([each.ravel() for each in values])
    if name == "spectrum":
        low, high = np.quantile(flat, (0.01, 0.995))
        return Column(name, "spectrum\nof the image", f"black {_db(low)}, white {_db(high)}", *_apart(low, high))
    title = name.removeprefix(SEEN)
    if values[0].ndim == 1:  # numbers of different sizes: beside the largest the others would not be seen
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
        told = f"a column for each number: its distance from the mean of the rows, to {_MOST_DEVIATIONS:g} deviations"
        return Column(name, _wrapped(title), told, -_MOST_DEVIATIONS, _MOST_DEVIATIONS, mean, spread)
    low, high = np.quantile(flat, (0.0025, 0.9975))
    if low < 0 < high and max(-low, high) <= _LIKE_PIXELS * min(-low, high):
        limit = max(-low, high)
        factor = max((each for each in _FACTORS if each * limit <= 0.5), default=_FACTORS[0])
        edge = 0.5 / factor
        shown = format_number(edge, 2)
        scale = f"times {factor:g} about grey: grey 0, black \N{MINUS SIGN}{shown}, white +{shown}"
        return Column(name, f"{_wrapped(title)}\n\N{MULTIPLICATION SIGN}{factor:g}", scale, -edge, edge)
    scale = f"black {format_number(float(low), 2)}, white {format_number(float(high), 2)}"
    return Column(name, _wrapped(title), scale, *_apart(low, high))


@styled
def explanation_rows(found: Explanations, sources: Sequence[str]) -> Figure:
    """A row for each image, with its source before it and what was named behind it.

    Raises:
        ValueError: no image.
    """
    columns = columns_of(found)
    if not columns:
        raise ValueError("found no image to explain; expected at least one with pictures")
    pitch, rows = _TILE + _MARGIN, found.examples
    canvas = np.ones((len(rows) * pitch, len(columns) * pitch, 3))
    for row, example in enumerate(rows):
        for place, column in enumerate(columns):
            top, left = row * pitch, place * pitch
            canvas[top : top + _TILE, left : left + _TILE] = _tile(example, column)
    cell = min(_CELL, (_WIDEST - _TEXT - _NAME) / len(columns))
    width, height = len(columns) * cell, len(rows) * cell
    above = 0.16 * max(column.title.count("\n") + 1 for column in columns) + 0.08
    figure = new_figure(_NAME + width + _TEXT, height + above)
    figure.set_layout_engine("none")
    whole = (figure.get_figwidth(), figure.get_figheight())
    axes = figure.add_axes((_NAME / whole[0], 0.0, width / whole[0], height / whole[1]))
    axes.imshow(canvas, interpolation="antialiased", aspect="auto")
    axes.set_xticks([pitch * place + _TILE / 2 for place in range(len(columns))], [each.title for each in columns])
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.tick_params(length=0, colors=MUTED, labelsize=7.5)
    axes.spines[:].set_visible(False)
    for row, example in enumerate(rows):
        middle = pitch * row + _TILE / 2
        mark = "right" if example.right else "wrong"
        told: dict[str, Any] = {"va": "center", "fontsize": 8, "linespacing": 1.4}
        source = f"{sources[example.label]}\n{mark}"
        colour = INK if example.right else _WRONG
        axes.text(-8, middle, source, ha="right", color=colour, **told)
        axes.text(canvas.shape[1] + 4, middle, _told(example, sources), ha="left", **told)
    return figure


def _told(example: Explanation, sources: Sequence[str]) -> str:
    order = sorted(range(len(sources)), key=lambda place: (-example.probabilities[place], place))
    shares = [f"{sources[place]} {format_percent(example.probabilities[place])}" for place in order[:3]]
    lines = [f"named {shares[0]}", f"then {', '.join(shares[1:])}"]
    if example.slope is not None:
        lines.append(f"steepest pixel {format_number(example.slope, 2)} a level")
    elif example.reason:
        lines.append(example.reason.partition(":")[0].rstrip("."))
    return "\n".join(lines)


def _tile(example: Explanation, column: Column) -> NDArray[np.float64]:
    """A square ``(_TILE, _TILE, 3)``; faint where there is no picture."""
    tensor = example.tensors.get(column.name)
    if tensor is None:
        return np.broadcast_to(np.array(mpl.colors.to_rgb(FAINT)), (_TILE, _TILE, 3)).astype(np.float64)
    values = as_array(tensor).astype(np.float64)
    if column.name == "image":
        return _fitted(np.moveaxis(values, 0, -1) / 255)
    if column.mean is not None and column.spread is not None:
        values = (values - column.mean) / np.where(column.spread > 0, column.spread, 1.0)
    unit = np.clip((values - column.low) / (column.high - column.low), 0, 1)
    if column.name == "saliency":
        return _fitted(np.asarray(mpl.colormaps[_MAP](unit))[..., :3])
    if unit.ndim == 1:
        return _bars(unit)
    planes = unit[None] if unit.ndim == 2 else unit
    if len(planes) != 3:
        planes = np.repeat(planes.mean(axis=0, keepdims=True), 3, axis=0)
    return _fitted(np.moveaxis(planes, 0, -1))


def _fitted(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """A picture ``(h, w, 3)`` on a square tile, its pixels repeated, its shape kept."""
    height, width = picture.shape[:2]
    scale = _TILE / max(height, width)
    rows = (np.arange(max(1, round(height * scale))) / scale).astype(int).clip(0, height - 1)
    columns = (np.arange(max(1, round(width * scale))) / scale).astype(int).clip(0, width - 1)
    tile = np.ones((_TILE, _TILE, 3))
    top, left = (_TILE - len(rows)) // 2, (_TILE - len(columns)) // 2
    tile[top : top + len(rows), left : left + len(columns)] = picture[rows][:, columns]
    return tile


def _bars(unit: NDArray[np.float64], zero: float = 0.5) -> NDArray[np.float64]:
    """Numbers in [0, 1] as columns that begin in the middle."""
    tile = np.broadcast_to(np.array(mpl.colors.to_rgb(FAINT)), (_TILE, _TILE, 3)).copy()
    drawn = unit[(np.arange(_TILE) * len(unit) / _TILE).astype(int)]
    levels = 1 - (np.arange(_TILE)[:, None] + 0.5) / _TILE
    tile[(levels >= np.minimum(drawn, zero)) & (levels <= np.maximum(drawn, zero))] = mpl.colors.to_rgb(INK)
    return tile


def _apart(low: float, high: float) -> tuple[float, float]:
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _db(value: float) -> str:
    return f"{value:.0f} dB".replace("-", "\N{MINUS SIGN}")


def _wrapped(name: str) -> str:
    """A representation's name in lines of about a dozen letters: a column is narrow."""
    lines = [""]
    for part in name.replace("_", "_\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > 13:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
