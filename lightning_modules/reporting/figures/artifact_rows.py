"""Rows of image, nearest real and artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from lightning_modules.reporting.figures.palette import MUTED
from lightning_modules.reporting.figures.style import as_array, enlarged, new_figure, styled
from lightning_modules.reporting.formatting import format_number

_MARGIN, _GAP = 4, 14  # pixels around a cell, and between triplets
_DIVERGING = "RdBu_r"


@dataclass(frozen=True)
class ArtifactRow:
    """What `artifact_rows` shows of one source."""

    source: str
    images: ArrayLike  # (M, 3, H, W), uint8 or float in [0, 1]
    nearest: ArrayLike  # (M, 3, H, W), the nearest real of each image, uint8 or float in [0, 1]
    artifacts: ArrayLike | None  # (M, C, H, W) signed float (ManiFPT Sec. 3); None where it is no image


@styled
def artifact_rows(rows: Sequence[ArtifactRow], *, space: str = "RGB") -> Figure:
    """For each source a row of triplets: image, nearest real, artifact; or of pairs, where artifacts are no images.

    The signed artifact is averaged over channels and shown with a diverging map, white at 0, with one scale for the
    whole figure, stated beside it: the 99.5th percentile of all magnitudes shown.

    Raises:
        ValueError: no row, or numbers or sizes of images that differ.
    """
    if not rows:
        raise ValueError("found no source to show; expected at least one ArtifactRow")
    expected, drawn = as_array(rows[0].images).shape, rows[0].artifacts is not None
    shown = []
    for row in rows:
        images, nearest = _unit(row.images), _unit(row.nearest)
        artifacts = np.zeros(expected) if row.artifacts is None else as_array(row.artifacts).astype(np.float64)
        fits = images.shape == nearest.shape == expected and len(expected) == 4
        fits = fits and (artifacts.shape[0], *artifacts.shape[2:]) == (expected[0], *expected[2:])
        if not fits or (row.artifacts is not None) != drawn:
            raise ValueError(
                f"{row.source}: images {images.shape}, nearest {nearest.shape}, artifacts {artifacts.shape}; "
                f"expected (M, 3, H, W) = {expected}, as of {rows[0].source}"
            )
        shown.append((images, nearest, artifacts.mean(axis=1)))
    magnitudes = np.concatenate([np.abs(artifacts).ravel() for _, _, artifacts in shown])
    limit = float(np.quantile(magnitudes, 0.995)) or 1.0
    scale = ScalarMappable(Normalize(-limit, limit), _DIVERGING)
    columns = ["image", "nearest\nreal", "artifact"][: 3 if drawn else 2]
    gaps = ([0] * (len(columns) - 1) + [_GAP]) * expected[0]
    tiles = []
    for images, nearest, artifacts in shown:
        line = []
        for image, real, artifact in zip(images, nearest, artifacts, strict=True):
            coloured = scale.to_rgba(artifact)[..., :3]
            parts = (np.moveaxis(image, 0, -1), np.moveaxis(real, 0, -1), coloured)
            line += [enlarged(part) for part in parts[: len(columns)]]
        tiles.append(line)
    canvas, pitch = _canvas(tiles, gaps)
    cell = 0.62
    longest = max(len(row.source) for row in rows)
    inches = cell / pitch[1]
    figure = new_figure(canvas.shape[1] * inches + 0.09 * longest + 1.1, canvas.shape[0] * inches + 0.55)
    axes = figure.add_subplot()
    axes.imshow(canvas, interpolation="none")
    axes.set_yticks([pitch[0] * (row + 0.5) for row in range(len(rows))], [row.source for row in rows])
    starts = np.cumsum([0] + [tile.shape[1] + _MARGIN + gap for tile, gap in zip(tiles[0], gaps, strict=True)])
    centres = [start + tile.shape[1] / 2 for start, tile in zip(starts, tiles[0], strict=False)]
    axes.set_xticks(centres, columns * expected[0], fontsize=7.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, colors=MUTED, axis="x")
    axes.tick_params(length=0, axis="y")
    axes.spines[:].set_visible(False)
    if drawn:
        marks = [limit * part for part in (-1, -0.5, 0, 0.5, 1)]
        bar = figure.colorbar(scale, ax=axes, shrink=min(1.0, 2.4 / (canvas.shape[0] * inches)), pad=0.015, aspect=18)
        bar.set_ticks(marks, labels=[format_number(mark, 2) for mark in marks])
        bar.set_label(
            f"{space} artifact, mean of channels\n(scale ±{format_number(limit, 2)}, same for all)", fontsize=8
        )
        bar.outline.set_visible(False)
    return figure


def _unit(images: ArrayLike) -> NDArray[Any]:
    """Images as float in [0, 1]."""
    pixels = as_array(images)
    return pixels / 255 if pixels.dtype == np.uint8 else np.clip(pixels, 0, 1).astype(np.float64)


def _canvas(rows: list[list[NDArray[Any]]], gaps: list[int]) -> tuple[NDArray[Any], tuple[float, float]]:
    """Tiles `(h, w, 3)` of equal size on white: the canvas, and height and width of a cell with margin, in pixels."""
    height, width = rows[0][0].shape[:2]
    offsets = np.cumsum([0] + [width + _MARGIN + gap for gap in gaps])
    canvas = np.ones((len(rows) * (height + _MARGIN), int(offsets[-1]), 3))
    for row, line in enumerate(rows):
        for tile, left in zip(line, offsets, strict=False):
            canvas[row * (height + _MARGIN) : row * (height + _MARGIN) + height, left : left + width] = tile
    return canvas, (height + _MARGIN, width + _MARGIN)
