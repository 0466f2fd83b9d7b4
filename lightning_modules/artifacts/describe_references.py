"""From stored points to everything a search needs: centre, norms, axes and short descriptions."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

from lightning_modules.artifacts.cells import Cells, divide
from lightning_modules.artifacts.columns import Columns
from lightning_modules.artifacts.projection import NEVER, Projection, describe, fit_axes, project
from lightning_modules.artifacts.references import References
from lightning_modules.artifacts.sieve import GROUP

AXES = 256
"""Principal axes kept, unless told otherwise."""

# Axes of the first bound. On 60,000 images more cost more in the product than they save in pairs.
_LEADING = 128
_SAMPLE = 8192  # references that the axes are fitted to
_FEW = 512  # below this many references the plain product takes no time worth saving

Allocate = Callable[[str, tuple[int, ...], torch.dtype], Tensor]


def describe_references(
    points: Tensor, columns: Columns, axes: int | None, memory_limit: int, allocate: Allocate
) -> tuple[References, dict[str, Tensor]]:
    """Compute what a search needs.

    Args:
        points: ``(N, C)`` stored columns, uint8 or float32.
        columns: How they stand for coordinates.
        axes: Principal axes to keep; 0 for none, None for AXES where the manifold is large enough to profit.
        memory_limit: Bytes to work with, beside what is allocated.
        allocate: Gives the tensor of a name, shape and dtype that a result is written to.

    Returns:
        The references, and the computed tensors by name (see :func:`assemble`).
    """
    total, count = points.shape
    if axes is None:
        axes = AXES if total >= _FEW and count > _LEADING // 2 else 0
    axes = min(axes, count)
    rows = max(1, min(4096, memory_limit // (64 * count + 48 * axes)))
    mean = torch.zeros(count, dtype=torch.float64)
    for start in range(0, total, rows):
        mean += points[start : start + rows].sum(0, dtype=torch.float64) / total
    # Exact in float32, and whole levels for 8-bit points, so that centring never rounds.
    centre = mean.round() if points.dtype == torch.uint8 else mean.float().double()
    multiplicity = columns.multiplicity.double()
    tensors = {"centre": allocate("centre", (count,), torch.float64)}
    tensors["centre"].copy_(centre)
    tensors["squares"] = allocate("squares", (total, 2), torch.float64)
    for start in range(0, total, rows):
        part = slice(start, min(start + rows, total))
        values = points[part].double()
        tensors["squares"][part, 0] = values.square() @ multiplicity
        tensors["squares"][part, 1] = values.sub_(centre).square() @ multiplicity
    if axes:
        sample = points[:: -(-total // _SAMPLE)]
        tensors["axes"] = allocate("axes", (count, axes), torch.float32)
        tensors["axes"].copy_(fit_axes(sample, centre, multiplicity.sqrt(), axes, rows))
        _describe_all(points, centre, multiplicity.sqrt(), tensors, rows, allocate)
    return assemble(points, columns, tensors), tensors


def _describe_all(
    points: Tensor, centre: Tensor, weight: Tensor, tensors: dict[str, Tensor], rows: int, allocate: Allocate
) -> None:
    """Describe all references, and put the descriptions in the order of their cells."""
    total, axes = len(points), tensors["axes"].shape[1]
    leading = min(_LEADING, axes)
    short = torch.empty(total, leading + 1)
    finer = torch.empty(total, axes - leading + 2)
    for start in range(0, total, rows):
        some = points[start : start + rows]

        def centred(which: slice, columns: slice, some: Tensor = some) -> Tensor:
            return some[which, columns].double().sub_(centre[columns]).mul_(weight[columns])

        found = project(len(some), points.shape[1], centred, tensors["axes"], points.device)
        parts = describe(*found, leading)
        short[start : start + rows], finer[start : start + rows] = parts[0].float(), parts[1].float()
    cells = divide(short, leading)
    for name in ("order", "start", "low", "high"):
        value = getattr(cells, name)
        tensors[name] = allocate(name, tuple(value.shape), value.dtype)
        tensors[name].copy_(value)
    tensors["leading"] = allocate("leading", (-(-total // GROUP) * GROUP, leading + 2), torch.float32)
    tensors["leading"][total:] = 0
    tensors["leading"][total:, -1] = NEVER
    tensors["finer"] = allocate("finer", (total, axes - leading + 2), torch.float32)
    for start in range(0, total, rows):
        part = slice(start, start + rows)
        ordered = short[cells.order[part]]
        tensors["leading"][start : start + len(ordered), :-1] = ordered
        tensors["leading"][start : start + len(ordered), -1] = ordered.double().square().sum(1).float()
        tensors["finer"][part] = finer[cells.order[part]]


def assemble(points: Tensor, columns: Columns, tensors: dict[str, Tensor]) -> References:
    """References of stored points and the tensors that :func:`describe_references` computed."""
    squares = tensors["squares"]
    reach, radius = (sqrt(float(largest)) for largest in squares.amax(0))
    projection = None
    if "axes" in tensors:
        cells = Cells(tensors["order"], tensors["start"], tensors["low"], tensors["high"])
        projection = Projection(tensors["axes"], tensors["centre"], cells, tensors["leading"], tensors["finer"], radius)
    return References(points, columns, tensors["centre"], squares, reach, radius, projection)
