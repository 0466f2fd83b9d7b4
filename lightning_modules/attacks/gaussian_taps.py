"""The taps of a sampled Gaussian, odd and even, and the blur they make, computed in a fixed order."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad


def gaussian_taps(taps: int, sigma: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Sample `exp(-(x - c)^2 / 2 sigma^2)` and normalise it to sum 1, one row per sigma.

    An odd kernel has its taps at `-r .. r` and c = 0. An even one of k taps has them at `-k/2 + 1 .. k/2`, and its
    centre c = `shift` lies between two of them; it is given in a window of k + 1 taps whose first is zero, so that
    every window is odd and no library's anchor for even ones matters.

    Args:
        taps: kernel size k in pixels, at least 1.
        sigma: standard deviations in pixels `(n,)`, at least 0; 0 gives the unit impulse.
        shift: centre of an even kernel, 0.5 for the symmetric one; unused for an odd one.

    Returns:
        float64 `(n, k)` for odd k, `(n, k + 1)` for even k.
    """
    even = taps % 2 == 0
    offsets = np.arange(-(taps // 2), taps // 2 + 1, dtype=np.float64)
    distance = (offsets - (shift if even else 0.0)) ** 2
    distance -= distance.min()  # the nearest tap weighs 1 before normalising: a small sigma cannot underflow them all
    rows = np.empty((len(sigma), len(offsets)))
    for row, width in zip(rows, np.maximum(sigma, 1e-6), strict=True):  # at 1e-6 px every other tap is exactly 0
        row[:] = np.exp(-distance / (2.0 * width**2))
        row[0] = 0.0 if even else row[0]
        row /= row.sum()
    return rows


def taps_of_enlarged(weights: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Give the taps that do to an image what `weights` do to it when it is `factor` times larger.

    Enlarge by repeating each pixel f times, correlate, and average each block of f: together one correlation of the
    small image. Of the f^2 pairs of positions in two blocks d apart, f - |t - d f| lie t apart, so that tap d is
    `sum over t of weights(t) max(0, 1 - |t / f - d|)`: every tap is shared by its two neighbours on the coarse grid.
    The same formula serves factors that are not whole.

    Args:
        weights: float64 `(n, k)`, k odd.
        factor: at least 1.

    Returns:
        float64 `(n, k')`, k' odd, rows with the same sums.
    """
    reach = weights.shape[1] // 2
    fine = np.arange(-reach, reach + 1)[:, None] / factor
    coarse = np.arange(-int(np.ceil(reach / factor)), int(np.ceil(reach / factor)) + 1)
    share = np.maximum(0.0, 1.0 - np.abs(fine - coarse))  # (k, k')
    return np.stack([(row[:, None] * share).sum(axis=0) for row in weights])


def blur_exactly(pixels: Tensor, weights: Tensor) -> Tensor:
    """Correlate rows, then columns, with each image's own taps; the border is mirrored without its edge pixel.

    Taps are added one by one, so an image's result does not depend on its batch, as a library's convolution may.

    Args:
        pixels: float64 `(n, C, H, W)`.
        weights: float64 `(n, k)`, k odd, k // 2 < min(H, W).
    """
    height, width = pixels.shape[-2:]
    reach = weights.shape[1] // 2
    columns = weights.T[:, :, None, None, None]  # (k, n, 1, 1, 1)
    wide = pad(pixels, (reach, reach, 0, 0), mode="reflect")
    rows = torch.zeros_like(pixels)
    for offset, weight in enumerate(columns):
        rows = rows + weight * wide[..., offset : offset + width]
    tall = pad(rows, (0, 0, reach, reach), mode="reflect")
    blurred = torch.zeros_like(pixels)
    for offset, weight in enumerate(columns):
        blurred = blurred + weight * tall[..., offset : offset + height, :]
    return blurred
