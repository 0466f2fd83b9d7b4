"""The residual discriminator of StyleGAN2 (Karras et al. 2020, figure 7c), used only to train."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.generators.stylegan2.layers import (
    DEFAULT_FILTER,
    EqualisedLinear,
    activate,
    blur,
    normalised_filter,
)


class EqualisedConv(nn.Module):
    """Convolution with equalised learning rate, halving the size after the filter where `down` is set."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, down: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.gain = 1.0 / math.sqrt(inputs * kernel_size**2)
        self.down = down

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Map `(n, inputs, h, w)` to `(n, outputs, h, w)`, half as large if `down`."""
        size = self.weight.shape[-1]
        if not self.down:
            return F.conv2d(x, self.weight * self.gain, self.bias, padding=size // 2)
        excess = len(kernel) + size - 3  # taps of both filters beyond the two pixels that become one
        x = blur(x, kernel, ((excess + 1) // 2, excess // 2))
        return F.conv2d(x, self.weight * self.gain, self.bias, stride=2)


class ResidualBlock(nn.Module):
    """Two convolutions beside a linear path, half the size, unit variance."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = EqualisedConv(inputs, inputs, 3)
        self.conv1 = EqualisedConv(inputs, outputs, 3, down=True)
        self.skip = EqualisedConv(inputs, outputs, 1, down=True, bias=False)

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Map `(n, inputs, h, w)` to `(n, outputs, h / 2, w / 2)`."""
        y: Tensor = activate(self.conv1(activate(self.conv0(x, kernel)), kernel))
        skipped: Tensor = self.skip(x, kernel)
        return (y + skipped) * math.sqrt(0.5)


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append to `(n, c, h, w)` the standard deviation over groups of images, averaged (Karras et al. 2018, section 3).

    The group is the largest divisor of n up to `group`.
    """
    n, _, height, width = x.shape
    group = max(size for size in range(1, min(group, n) + 1) if n % size == 0)
    grouped = x.view(group, n // group, -1)
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=1)  # (n // group,)
    return torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(-1, 1, height, width)], dim=1)


class StyleGAN2Discriminator(nn.Module):
    """Images to one logit each: how real.

    Args:
        channels: channels at 4, 8, ... pixels; their number gives the image size.
        image_channels: channels of the images.
        resample_filter: taps of the down-sampling filter.
    """

    kernel: Tensor

    def __init__(
        self, channels: Sequence[int], image_channels: int = 3, resample_filter: Sequence[float] = DEFAULT_FILTER
    ) -> None:
        super().__init__()
        self.register_buffer("kernel", normalised_filter(resample_filter))
        descending = list(reversed(channels))
        self.from_image = EqualisedConv(image_channels, descending[0], 1)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in itertools.pairwise(descending))
        last = descending[-1]
        self.conv = EqualisedConv(last + 1, last, 3)
        self.hidden = EqualisedLinear(last * 16, last)
        self.out = EqualisedLinear(last, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images `(n, image_channels, H, W)` in [-1, 1] to logits `(n,)`."""
        x = activate(self.from_image(images, self.kernel))
        for block in self.blocks:
            x = block(x, self.kernel)
        x = activate(self.conv(minibatch_deviation(x), self.kernel))
        logits: Tensor = self.out(activate(self.hidden(x.flatten(1))))
        return logits.squeeze(1)
