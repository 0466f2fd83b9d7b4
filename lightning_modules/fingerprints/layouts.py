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

from lightning_modules.fingerprints.principal_axes import fit_principal_axes
from lightning_modules.fingerprints.settings import LAYOUTS

REPEATS = 3


@dataclass(frozen=True)
class PlacedAxes:
    """Principal axes, divided into those of the key and the others; all float64."""

    mean: Tensor  # (d,)
    key_axes: Tensor  # (copies, m, d), orthonormal: bit j moves the latent along row j of every copy
    key_deviation: Tensor  # (copies, m), natural standard deviation along them
    other_axes: Tensor  # (k, d), orthonormal, by decreasing deviation; all d - copies m, or the leading ones
    other_deviation: Tensor  # (k,)
    left: int = 0  # axes outside the key that are not among them
    left_variance: float = 0.0  # sum of the variances along these


def place_key(
    batches: Callable[[], Iterable[Tensor]],
    dim: int,
    bits: int,
    shift: int,
    layout: str = "flat",
    channels: int = 1,
    kept: int | None = None,
) -> PlacedAxes:
    """Fit the axes of a stream of latents of length `dim` and divide them; the rest as in `KeySettings`.

    `batches` starts the stream of latents `(n_i, d)` anew, once for each of the `channels` in the layout `per_channel`.
    So many leading axes outside the key are `kept`; None keeps all. Of 12,288 axes each thousand takes 94 MiB.

    Raises:
        ValueError: an unknown layout, or a key that does not fit.
    """
    shift = check_layout(dim, bits, shift, layout, channels)
    width = dim // channels if layout == "per_channel" else dim
    copies = REPEATS if layout == "repeated" else 1
    wanted = width if kept is None else min(width, max(shift, kept) + copies * bits)  # along the latent, or a channel
    if layout != "per_channel":
        fitted = fit_principal_axes(batches(), wanted)
        total = fitted.total_variance
        key = torch.arange(shift, shift + copies * bits).view(bits, copies).T  # (copies, m)
        mean, axes, deviation = fitted.mean, fitted.axes, fitted.deviation
    else:
        parts = [
            fit_principal_axes((batch.reshape(len(batch), channels, width)[:, c] for batch in batches()), wanted)
            for c in range(channels)
        ]
        mean = torch.cat([part.mean for part in parts])
        axes = torch.block_diag(*(part.axes for part in parts))  # type: ignore[no-untyped-call]
        deviation = torch.cat([part.deviation for part in parts])
        total = sum(part.total_variance for part in parts)
        key = shift + torch.arange(bits)[None] + wanted * torch.arange(channels)[:, None]  # (channels, m)
    others = torch.ones(len(axes), dtype=torch.bool)
    others[key.flatten()] = False
    order = deviation[others].argsort(descending=True, stable=True)[:kept]
    other_axes, other_deviation = axes[others][order], deviation[others][order]
    left = dim - key.numel() - len(order)
    told = float(deviation[key].square().sum() + other_deviation.square().sum())
    left_variance = max(0.0, total - told) if left else 0.0
    return PlacedAxes(mean, axes[key], deviation[key], other_axes, other_deviation, left, left_variance)


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
