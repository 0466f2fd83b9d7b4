"""The principal axes of latents: all of them, or the leading ones where a latent has thousands of coordinates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

NULL = 1e-12
"""Share of the largest variance below which a variance is that of rounding."""


@dataclass(frozen=True)
class PrincipalAxes:
    """Axes of decreasing variance: all d, or the leading r."""

    mean: Tensor  # float64 (d,)
    axes: Tensor  # float64 (r, d), orthonormal rows
    deviation: Tensor  # float64 (r,), standard deviation along each row (divisor n - 1), decreasing
    count: int  # latents seen
    total_variance: float  # along all d axes


def fit_principal_axes(batches: Iterable[Tensor], leading: int | None = None) -> PrincipalAxes:
    """Fit the axes of `w` (section 3.1 of the paper) from batches of latents `(n_i, d)` of any float type.

    The sign of each axis is fixed by its entry of largest magnitude, which is made positive, so that equal latents give
    equal axes whatever the library's decomposition returns. The order of the batches matters in the last digits only.

    The decomposition is that of the covariance matrix `(d, d)`; of fewer than d latents, that of their inner products.
    It is exact: a key may lie on axes deep in the spectrum, whose variances hardly differ, and there a randomised
    decomposition (Halko, Martinsson & Tropp 2011) mixes them with those that it leaves out (docs/performance.md).

    Args:
        batches: the latents.
        leading: number of axes to give; None for all d.

    Raises:
        ValueError: fewer than two latents, batches of different widths, or values that are not finite.
    """
    origin: Tensor | None = None
    total = scatter = torch.zeros(0)
    waiting: list[Tensor] = []  # the first latents, while they are fewer than coordinates
    count = 0
    for batch in batches:
        rows = batch.detach().double()
        if rows.ndim != 2 or (origin is not None and rows.shape[1] != len(origin)):
            raise ValueError(f"found a batch of shape {tuple(batch.shape)}, expected (n, d) with one d throughout")
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(
                f"found latents that are not finite after {count} good ones; check the generator's weights"
            )
        if origin is None:
            origin = rows.mean(dim=0)
            total = torch.zeros_like(origin)
        rows = rows - origin
        total += rows.sum(dim=0)
        count += len(rows)
        if not len(scatter):
            waiting.append(rows)
            if count < len(origin):
                continue
            scatter = torch.zeros(len(origin), len(origin), dtype=torch.float64, device=rows.device)
            while waiting:
                first = waiting.pop(0)
                scatter.addmm_(first.T, first)
        else:
            scatter.addmm_(rows.T, rows)
    if origin is None or count < 2:
        raise ValueError(f"found {count} latents, expected at least 2 to measure a variance; draw more")
    offset, wanted = total / count, len(origin) if leading is None else min(leading, len(origin))
    if waiting:
        centred = torch.cat(waiting) - offset
        variance, axes = _from_inner_products(centred, wanted)
        whole = float(centred.square().sum()) / (count - 1)
    else:
        scatter.addr_(offset, offset, alpha=-float(count)).div_(count - 1)
        whole = float(scatter.trace())
        variance, axes = _leading_axes(scatter, wanted)
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    axes *= torch.where(largest < 0, -1.0, 1.0)
    return PrincipalAxes(origin + offset, axes, variance.clamp_min(0.0).sqrt(), count, whole)


def _leading_axes(matrix: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues `(r,)` of a symmetric matrix `(d, d)`, decreasing, and their vectors as rows `(r, d)`.

    All are computed: at a third of them, torch's divide and conquer is faster than scipy's driver for some.
    """
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0)[:wanted], vectors[:, len(matrix) - wanted :].T.flip(0).contiguous()


def _from_inner_products(rows: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Variances `(r,)` and axes `(r, d)` of centred rows `(n, d)` with n < d.

    Axes along which the rows do not vary complete the basis where more are wanted than there are others.
    """
    count = len(rows)
    values, vectors = _leading_axes(rows @ rows.T / (count - 1), min(wanted, count - 1))
    there = values > NULL * values[0].clamp_min(torch.finfo(torch.float64).tiny)
    values, vectors = values[there], vectors[there]
    axes = vectors @ rows / ((count - 1) * values).sqrt()[:, None]
    if wanted > len(axes):
        complete = torch.linalg.qr(axes.T, mode="complete").Q.T
        axes = torch.cat([axes, complete[len(axes) : wanted]])
        values = torch.cat([values, values.new_zeros(wanted - len(values))])
    return values, axes.contiguous()
