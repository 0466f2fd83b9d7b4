"""A k-d tree over PCA coordinates: cells with bounding boxes, and lower bounds of distances from a short description.

A point's description is its coordinates along the leading principal axes, with the norm of the residual (what they
leave out) as one more coordinate. References are divided into cells along the axes of largest spread.

With ``A`` any linear map that never lengthens a vector (``||A|| <= 1``),

    ||q - r||^2  =  ||A q - A r||^2 + ||B q - B r||^2  >=  ||A q - A r||^2 + (||B q|| - ||B r||)^2,

where ``B = (I - A^T A)^(1/2)`` and hence ``||B x||^2 = ||x||^2 - ||A x||^2``. Nothing is asked of ``A`` but that it is
a contraction, which is checked in float64, so the bound holds whatever the quality of the axes; that they are principal
axes only makes it tight. Appending ``rho = ||B x||`` to ``A x`` makes the bound a plain squared distance between short
vectors, and appending ``||.||^2`` makes it, up to a constant of the query, one matrix product (`lower_bounds.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.artifacts.search.candidates import GROUP

_ITERATIONS = 4  # of the subspace iteration: more change the bounds by less than a hundredth

NEVER = 3e38
"""Squared norm of a row that is no reference: no query is near it."""

_BLOCK, _ROWS = 1024, 256  # columns and points of a float64 product at a time: they stay in the cache

Centred = Callable[[slice, slice], Tensor]
"""Gives centred, weighted columns in float64: ``(rows, columns)`` to a new tensor ``(rows, columns)``."""


@dataclass(frozen=True)
class Projection:
    """Axes, and the short descriptions of all references.

    Attributes:
        axes: ``(C, K)`` float32, the contraction ``A`` transposed, acting on weighted, centred columns.
        centre: ``(C,)`` float64, subtracted from the columns before projecting.
        cells: Which references lie together; rows of ``leading`` and ``finer`` are in the order of the cells.
        leading: ``(N rounded up to GROUP, L + 2)`` float32: ``A x`` on the first L axes, ``rho`` beyond these, and the
            squared norm of the two; NEVER in the rows that only fill up the last group.
        finer: ``(N, K - L + 2)`` float32: ``A x`` on the other axes, ``rho`` beyond all, ``rho`` beyond the first L.
        radius: Largest norm of a reference about the centre.
    """

    axes: Tensor
    centre: Tensor
    cells: Cells
    leading: Tensor
    finer: Tensor
    radius: float

    @property
    def leading_axes(self) -> int:
        """Number of axes of the first bound, L."""
        return self.leading.shape[1] - 2


def project(
    count: int, columns: int, centred: Centred, axes: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Coordinates ``(n, K)`` of points along axes ``(C, K)``, and their squared norms ``(n,)``, float64, on a device.

    ``count`` is n, ``columns`` C; ``centred`` gives the points' columns. Without axes K is 0.
    """
    wide = 0 if axes is None else axes.shape[1]
    projected = torch.zeros(count, wide, dtype=torch.float64, device=device)
    squares = torch.zeros(count, dtype=torch.float64, device=device)
    for start in range(0, columns, _BLOCK):
        part = slice(start, min(start + _BLOCK, columns))
        factor = None if axes is None else axes[part].to(device, torch.float64)
        for first in range(0, count, _ROWS):
            rows = slice(first, min(first + _ROWS, count))
            values = centred(rows, part)
            if factor is not None:
                projected[rows].addmm_(values, factor)
            squares[rows] += values.square_().sum(1)
    return projected, squares


def describe(projected: Tensor, squares: Tensor, leading: int) -> tuple[Tensor, Tensor]:
    """Leading ``(n, L + 1)`` and finer ``(n, K - L + 2)`` descriptions, float64, of what :func:`project` gave."""
    first = (squares - projected[:, :leading].square().sum(1)).clamp_(min=0).sqrt_()[:, None]
    last = (squares - projected.square().sum(1)).clamp_(min=0).sqrt_()[:, None]
    return torch.cat([projected[:, :leading], first], 1), torch.cat([projected[:, leading:], last, first], 1)


def residual_error(columns: int) -> float:
    """Largest error of ``rho`` in units of the norm of the point.

    ``rho^2`` is a difference of float64 sums over at most ``columns`` terms, each off by at most
    ``4 columns 2^-53 ||x||^2``; the root of that is the error of ``rho`` where it is near zero.
    """
    return math.sqrt(8.0 * columns * 2.0**-53)


def bound_slack(terms: int, columns: int) -> float:
    """How far a bound computed in float32 may exceed the true bound, in units of ``(||q|| + ||r||)^2``.

    - A product of ``n`` terms in any order is off by at most ``gamma_n |q|.|r|`` with ``gamma_n = n u / (1 - n u)``,
      ``u = 2^-24`` (Higham, Accuracy and Stability of Numerical Algorithms, Sec. 3.1), and the terms sum to at most
      ``(||q|| + ||r||)^2``.
    - Rounding the descriptions to float32 and the error of ``rho`` move each vector by at most ``delta`` times its
      norm, hence the squared distance by at most ``2 delta (1 + delta) (||q|| + ||r||)^2``.

    Eight more terms stand for the roundings of the norms, the threshold and the final comparison.
    """
    unit = 2.0**-24
    delta = unit + residual_error(columns)
    rounding = (terms + 8) * unit
    return rounding / (1 - rounding) + 2 * delta * (1 + delta) if rounding < 0.5 else math.inf


def fit_axes(sample: Tensor, centre: Tensor, weight: Tensor, count: int, rows: int) -> Tensor:
    """Leading principal axes of a sample of references, by subspace iteration, scaled to a contraction.

    ``sample`` are ``(n, C)`` stored columns, looked at so many rows at a time; ``weight`` ``(C,)`` is the square root
    of the columns' multiplicity.

    Returns:
        ``(C, count)`` float32 with spectral norm at most 1, by falling variance.
    """
    columns = sample.shape[1]
    wide = min(columns, count + 16)  # a few axes more than wanted make the last ones converge
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(columns, wide, generator=generator))[0]
    offset, scale = centre.float(), weight.float()
    for _ in range(_ITERATIONS):
        product = torch.zeros(columns, wide)
        for start in range(0, len(sample), rows):
            part = (sample[start : start + rows].float() - offset) * scale
            product += part.T @ (part @ axes)
        if not product.any():  # all references are the same point: any axes will do
            break
        axes = torch.linalg.qr(product)[0]
    moment = torch.zeros(wide, wide, dtype=torch.float64)
    for start in range(0, len(sample), rows):
        part = ((sample[start : start + rows].float() - offset) * scale) @ axes
        moment += part.T.double() @ part.double()
    rotation = torch.linalg.eigh(moment)[1].flip(1)[:, :count]
    return _contract((axes.double() @ rotation).float())


def _contract(axes: Tensor) -> Tensor:
    """Shrink axes until ``A^T A`` has no eigenvalue above 1 in float64."""
    for _ in range(8):
        gram = torch.zeros(axes.shape[1], axes.shape[1], dtype=torch.float64)
        for start in range(0, len(axes), _BLOCK):
            block = axes[start : start + _BLOCK].double()
            gram += block.T @ block
        largest = float(torch.linalg.eigvalsh(gram)[-1])
        # The margin is far above the error of the Gram matrix and of its eigenvalues, and costs nothing.
        if largest <= 1 - 1e-9:
            return axes
        axes = axes * ((1 - 1e-6) / math.sqrt(largest))
    raise RuntimeError(f"The principal axes could not be scaled to a contraction (largest eigenvalue {largest}).")


CELL = 256
"""Most references in a cell: enough for an efficient product, few enough for small boxes."""

SPLIT_AXES = 16
"""Leading axes that cells are split along and boxed in."""


@dataclass(frozen=True)
class Cells:
    """References in the order of their cells.

    Attributes:
        order: ``(N,)`` int64, index of the reference at each place.
        start: ``(cells + 1,)`` int64, first place of each cell, a multiple of GROUP, and N rounded up to one.
        low, high: ``(cells, b)`` float32, box of each cell over the split axes and the residual.
    """

    order: Tensor
    start: Tensor
    low: Tensor
    high: Tensor

    def __len__(self) -> int:
        return len(self.start) - 1

    def bounds(self, description: Tensor, leading_axes: int) -> Tensor:
        """Squared distances ``(n, cells)`` to the boxes, by leading descriptions ``(n, L + 1)`` and L."""
        boxed = boxed_axes(description, leading_axes)
        low, high = self.low.to(description.device), self.high.to(description.device)
        total = description.new_zeros(len(description), len(self))
        below, above = torch.empty_like(total), torch.empty_like(total)
        for axis in range(boxed.shape[1]):
            value = boxed[:, axis, None]
            torch.sub(low[:, axis], value, out=below)
            torch.sub(value, high[:, axis], out=above)
            outside = torch.maximum(below, above, out=below).clamp_(min=0)
            total.addcmul_(outside, outside)
        return total


def boxed_axes(description: Tensor, leading_axes: int) -> Tensor:
    """The coordinates that boxes are made of: the split axes and the residual."""
    split = min(SPLIT_AXES, leading_axes)
    return torch.cat([description[:, :split], description[:, leading_axes : leading_axes + 1]], 1)


def divide(description: Tensor, leading_axes: int) -> Cells:
    """Divide references into cells by their leading descriptions ``(N, L + 1)`` float32 and L."""
    boxed = boxed_axes(description, leading_axes)
    finished, waiting = [], [torch.arange(len(boxed))]
    while waiting:
        members = waiting.pop()
        if len(members) <= CELL:
            finished.append(members)
            continue
        values = boxed[members, :-1]
        spread = values[:, int(values.var(0).argmax())]
        ordered = members[torch.argsort(spread, stable=True)]
        half = max(GROUP, (len(members) // 2 + GROUP // 2) // GROUP * GROUP)
        waiting += [ordered[half:], ordered[:half]]
    # Only the last cell may hold a number that is no multiple of GROUP: every other is cut off at one.
    sizes = torch.tensor([0, *(-(-len(members) // GROUP) * GROUP for members in finished)])
    low = torch.stack([boxed[members].amin(0) for members in finished])
    high = torch.stack([boxed[members].amax(0) for members in finished])
    return Cells(torch.cat(finished), torch.cumsum(sizes, 0), low, high)
