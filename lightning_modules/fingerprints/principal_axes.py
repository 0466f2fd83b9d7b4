"""Principal axes of a stream of latents, in float64, without ever holding the latents together.

The covariance is summed batch by batch about the first batch's mean, so that a large common offset costs no digits, and
decomposed once. For the 12,288 dimensions of a 256 px latent diffusion model that is 1.2 GB and one decomposition when
a fingerprint is made; nothing of that size is touched again for any image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PrincipalAxes:
    """Axes of decreasing variance.

    Attributes:
        mean: float64 `(d,)`.
        axes: float64 `(d, d)`, orthonormal rows.
        deviation: float64 `(d,)`, standard deviation along each row (divisor n - 1), decreasing.
        count: latents seen.
    """

    mean: Tensor
    axes: Tensor
    deviation: Tensor
    count: int


def fit_principal_axes(batches: Iterable[Tensor]) -> PrincipalAxes:
    """Fit the axes of `w` (section 3.1 of the paper) from batches of latents.

    The sign of each axis is fixed by its entry of largest magnitude, which is made positive, so that equal latents give
    equal axes whatever the library's decomposition returns.

    Args:
        batches: latents `(n_i, d)` of any float type; the order of the batches matters in the last digits only.

    Returns:
        The axes.

    Raises:
        ValueError: fewer than two latents, batches of different widths, or values that are not finite.
    """
    origin: Tensor | None = None
    total = scatter = torch.zeros(0)
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
            scatter = torch.zeros(len(origin), len(origin), dtype=torch.float64, device=rows.device)
        rows = rows - origin
        total += rows.sum(dim=0)
        scatter.addmm_(rows.T, rows)
        count += len(rows)
    if origin is None or count < 2:
        raise ValueError(f"found {count} latents, expected at least 2 to measure a variance; draw more")
    offset = total / count
    scatter.addr_(offset, offset, alpha=-float(count)).div_(count - 1)
    variance, vectors = torch.linalg.eigh(scatter)
    axes = vectors.T.flip(0).contiguous()
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    axes *= torch.where(largest < 0, -1.0, 1.0)
    return PrincipalAxes(origin + offset, axes, variance.flip(0).clamp_min(0.0).sqrt(), count)
