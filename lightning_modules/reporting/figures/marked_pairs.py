"""Unmarked images beside the marked ones of the same latents: what the key changed, and what attacks leave of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.fingerprints.marked_images import MarkedPair
from lightning_modules.reporting.figures.palette import INK
from lightning_modules.reporting.figures.style import enlarged, new_figure, styled
from lightning_modules.reporting.formatting import format_number

_MARGIN = 5  # white pixels around a tile
_FACTORS = (1, 2, 5, 10, 20, 50, 100)


def shown_attacks(examples: Sequence[MarkedPair], order: Sequence[str], most: int) -> list[str]:
    """The first attacks of an order that every example has, at most so many."""
    return [name for name in order if all(name in example.attacked for example in examples)][:most]


def difference_factor(examples: Sequence[MarkedPair]) -> int:
    """The largest of 1, 2, 5, ..., 100 that keeps 99.5 % of all differences, times it, within ±0.5."""
    differences = np.concatenate([np.abs(_hwc(one.marked) - _hwc(one.unmarked)).ravel() for one in examples])
    limit = float(np.quantile(differences, 0.995))
    return max((factor for factor in _FACTORS if factor * limit <= 0.5), default=_FACTORS[0])


@styled
def marked_pair_rows(
    examples: Sequence[MarkedPair], attacks: Sequence[str] = (), *, factor: float | None = None
) -> Figure:
    """For each example a row: unmarked, marked, their difference, the marked image after each attack, in order.

    The difference is marked minus unmarked, times a factor (by default `difference_factor`) that the column's title
    states, around mid-grey, and cut to [0, 1]: grey is no change.

    Raises:
        ValueError: no example, images of different sizes, or an attack that an example lacks.
    """
    if not examples:
        raise ValueError("found no pair of images to show; expected at least one MarkedPair")
    _check(examples, attacks)
    factor = difference_factor(examples) if factor is None else factor
    rows = []
    for example in examples:
        unmarked, marked = _hwc(example.unmarked), _hwc(example.marked)
        difference = np.clip(0.5 + factor * (marked - unmarked), 0, 1)
        shown = [unmarked, marked, difference, *(_hwc(example.attacked[name]) for name in attacks)]
        rows.append(np.concatenate([_tile(picture) for picture in shown], axis=1))
    canvas = np.concatenate(rows)
    columns = 3 + len(attacks)
    pitch = canvas.shape[1] / columns
    cell = min(1.05, 10.4 / columns)  # inches; the page is about 10.5 wide
    titles = ["unmarked", "marked", f"difference\n×{format_number(factor)}", *map(_wrapped, attacks)]
    height = len(examples) * cell * canvas.shape[0] / len(examples) / pitch
    figure = new_figure(columns * cell, height + 0.16 * max(title.count("\n") + 1 for title in titles) + 0.1)
    axes = figure.add_subplot()
    axes.imshow(canvas, interpolation="antialiased")
    axes.set_xticks([pitch * (place + 0.5) for place in range(columns)], titles, fontsize=7.5)
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    return figure


def _check(examples: Sequence[MarkedPair], attacks: Sequence[str]) -> None:
    size = tuple(examples[0].unmarked.shape)
    for example in examples:
        if missing := [name for name in attacks if name not in example.attacked]:
            raise ValueError(f"example {example.index} has no image after {missing}; found {sorted(example.attacked)}")
        found = {tuple(picture.shape) for picture in (example.unmarked, example.marked, *example.attacked.values())}
        if found != {size}:
            raise ValueError(f"example {example.index} has images {sorted(found)}; expected all to be {size}")


def _hwc(image: Tensor) -> NDArray[np.float64]:
    pixels = image.detach().cpu().double().clamp(0, 1).numpy()
    return np.asarray(np.moveaxis(pixels, 0, -1))


def _tile(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.pad(enlarged(picture), ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)), constant_values=1.0)


def _wrapped(attack: str) -> str:
    """`paper-scaled-blur` in three lines: a column is narrow."""
    return attack.replace("-", "-\n")
