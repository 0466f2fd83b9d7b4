"""FIR resampling by two with a binomial filter (Karras et al. 2020, section 4; Zhang 2019).

One plain depthwise convolution, which runs and differentiates twice on every device. The filter [1, 3, 3, 1] is
separable, but what counts is how often the features are read and written: one pass of 16 products a pixel takes half
the time of two passes of 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DEFAULT_FILTER = (1.0, 3.0, 3.0, 1.0)


def normalised_filter(taps: Sequence[float]) -> Tensor:
    """Return one-dimensional taps `(k,)` float32 with sum 1.

    Raises:
        ValueError: fewer than two taps, or a sum of zero.
    """
    kernel = torch.tensor(list(taps), dtype=torch.float32)
    if len(kernel) < 2 or float(kernel.sum()) == 0.0:
        raise ValueError(f"found filter {list(taps)}, expected at least two taps with a sum other than zero")
    return kernel / kernel.sum()


def blur(x: Tensor, kernel: Tensor, pad: tuple[int, int], gain: float = 1.0) -> Tensor:
    """Filter rows and columns of `(n, c, h, w)`; the memory format is kept.

    Args:
        x: images or features.
        kernel: taps `(k,)`; applied as a true convolution (flipped), which a symmetric filter does not show.
        pad: zeros before and after, in both directions; negative values crop.
        gain: factor on the result.

    Returns:
        `(n, c, h + pad[0] + pad[1] - k + 1, w + pad[0] + pad[1] - k + 1)`.
    """
    channels = x.shape[1]
    taps = (kernel.flip(0) * gain**0.5).to(x.dtype)
    both = pad[0] if pad[0] == pad[1] >= 0 else 0  # equal sides are padded by the convolution, without a copy
    if not both:
        x = F.pad(x, (pad[0], pad[1], pad[0], pad[1]))
    return F.conv2d(x, torch.outer(taps, taps).expand(channels, 1, -1, -1), padding=both, groups=channels)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Double height and width of `(n, c, h, w)`: zeros between the pixels, then the filter, brightness kept."""
    n, channels, height, width = x.shape
    taps = len(kernel)
    spread = x.new_zeros(n, channels, height, 2, width, 2)
    spread[:, :, :, 0, :, 0] = x
    pad = ((taps - 1) // 2 + 1, (taps - 2) // 2)
    return blur(spread.reshape(n, channels, 2 * height, 2 * width), kernel, pad, gain=4.0)
