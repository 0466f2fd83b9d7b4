"""Where the bits of a key lie among the principal axes: three layouts, one result.

- `flat`: bit j on axis `shift + j` of the whole latent;
- `repeated`: bit j on the three axes `shift + 3 j .. shift + 3 j + 2` of the whole latent;
- `per_channel`: the latent's channels have axes of their own, and bit j lies on axis `shift + j` of every channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.fingerprints.settings import LAYOUTS

REPEATS = 3


@dataclass(frozen=True)
class PlacedAxes:
    """Principal axes, divided into those of the key and the others; all float64."""

    mean: Tensor  # (d,)
    key_axes: Tensor  # (copies, m, d), orthonormal: bit j moves the latent along row j of every copy
    key_deviation: Tensor  # (copies, m), natural standard deviation along them
    other_axes: Tensor  # (d - copies m, d), orthonormal, by decreasing deviation
    other_deviation: Tensor  # (d - copies m,)


def place_key(
    batches: Callable[[], Iterable[Tensor]], dim: int, bits: int, shift: int, layout: str = "flat", channels: int = 1
) -> PlacedAxes:
    """Fit the axes of a stream of latents of length `dim` and divide them; the rest as in `KeySettings`.

    `batches` starts the stream of latents `(n_i, d)` anew, once for each of the `channels` in the layout `per_channel`.

    Raises:
        ValueError: an unknown layout, or a key that does not fit.
    """
    shift = check_layout(dim, bits, shift, layout, channels)
    if layout != "per_channel":
        fitted = fit_principal_axes(batches())
        copies = REPEATS if layout == "repeated" else 1
        key = torch.arange(shift, shift + copies * bits).view(bits, copies).T  # (copies, m)
        mean, axes, deviation = fitted.mean, fitted.axes, fitted.deviation
    else:
        width = dim // channels
        parts = [
            fit_principal_axes(batch.reshape(len(batch), channels, width)[:, c] for batch in batches())
            for c in range(channels)
        ]
        mean = torch.cat([part.mean for part in parts])
        axes = torch.block_diag(*(part.axes for part in parts))  # type: ignore[no-untyped-call]
        deviation = torch.cat([part.deviation for part in parts])
        key = shift + torch.arange(bits)[None] + width * torch.arange(channels)[:, None]  # (channels, m)
    others = torch.ones(dim, dtype=torch.bool)
    others[key.flatten()] = False
    order = deviation[others].argsort(descending=True, stable=True)
    return PlacedAxes(mean, axes[key], deviation[key], axes[others][order], deviation[others][order])


def check_layout(dim: int, bits: int, shift: int, layout: str, channels: int = 1) -> int:
    """Return the shift counted from the first axis, if the key fits.

    Raises:
        ValueError: an unknown layout, or a key that does not fit; says what would.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"found layout {layout!r}, expected {', '.join(LAYOUTS)}")
    if layout == "per_channel" and (channels < 1 or dim % channels):
        raise ValueError(f"found {dim} dimensions in {channels} channels, expected a multiple of the channels")
    width = dim // channels if layout == "per_channel" else dim
    used = bits * (REPEATS if layout == "repeated" else 1)
    first = shift if shift >= 0 else width + shift
    if bits < 1 or first < 0 or first + used > width:
        raise ValueError(
            f"found {bits} bits from axis {shift} in layout {layout}, which needs axes {first} to {first + used}; "
            f"expected at least 1 bit within {width} axes: lower shift or the number of bits"
        )
    if used == width:
        raise ValueError(f"found a key that takes all {width} axes, expected some to be left for the image")
    return first


@dataclass(frozen=True)
class PrincipalAxes:
    """Axes of decreasing variance."""

    mean: Tensor  # float64 (d,)
    axes: Tensor  # float64 (d, d), orthonormal rows
    deviation: Tensor  # float64 (d,), standard deviation along each row (divisor n - 1), decreasing
    count: int  # latents seen


def fit_principal_axes(batches: Iterable[Tensor]) -> PrincipalAxes:
    """Fit the axes of `w` (section 3.1 of the paper) from batches of latents `(n_i, d)` of any float type.

    The sign of each axis is fixed by its entry of largest magnitude, which is made positive, so that equal latents give
    equal axes whatever the library's decomposition returns. The order of the batches matters in the last digits only.

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
