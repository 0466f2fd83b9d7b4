"""The layers of StyleGAN2 (Karras et al. 2020): equalised linear layers and modulated convolutions.

Weights are stored with unit variance and scaled when they are used (equalised learning rate, Karras et al. 2018), as
all public checkpoints store them. Modulation and demodulation scale the activations before and after one convolution
with shared weights, instead of building a filter for each image: the same values, and on a CPU much faster than the
grouped convolution of the fused form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEFAULT_FILTER = (1.0, 3.0, 3.0, 1.0)


def normalised_filter(taps: Sequence[float]) -> Tensor:
    """Return one-dimensional taps `(k,)` float32 with sum 1, at least two of them."""
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


SLOPE = 0.2
GAIN = math.sqrt(2.0)
EPSILON = 1e-8


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU with slope 0.2 and gain sqrt(2), which keeps the variance."""
    return F.leaky_relu(x, SLOPE) * GAIN


def activate_modulated(x: Tensor, factor: Tensor, offset: Tensor, clamp: float | None = None) -> Tensor:
    """`activate(factor x + offset)`, limited to +- clamp, in two passes over the features `(n, c, h, w)`.

    A positive gain can be applied before the leaky ReLU as well, so it goes into the factor `(n, c, 1, 1)` and the
    offset, which are small.
    """
    x = F.leaky_relu(torch.addcmul(offset * GAIN, x, factor * GAIN), SLOPE, inplace=True)
    return x if clamp is None else x.clamp(-clamp, clamp)


class EqualisedLinear(nn.Module):
    """Linear layer whose weights are scaled to `lr_multiplier / sqrt(inputs)` when used.

    The bias begins at `bias_init`, as used; the mapping network's `lr_multiplier` is 0.01.
    """

    def __init__(self, inputs: int, outputs: int, bias_init: float = 0.0, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias_init / lr_multiplier))
        self.weight_gain = lr_multiplier / math.sqrt(inputs)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """Map `(n, inputs)` to `(n, outputs)`."""
        return F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style, and the factor that brings back unit variance.

    Args:
        w_dim: length of a style latent w.
        inputs: channels in.
        outputs: channels out.
        kernel_size: 3, or 1 for the layers that make RGB.
        up: double height and width: transposed convolution, then the filter.
        scale_before_demodulation: whether the small constant of the demodulation is added to the scaled weights'
            energy or to the stored ones'; public implementations differ in this, by 1e-8 times the fan-in.
    """

    def __init__(
        self,
        w_dim: int,
        inputs: int,
        outputs: int,
        kernel_size: int,
        up: bool = False,
        scale_before_demodulation: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel_size, kernel_size))
        self.affine = EqualisedLinear(w_dim, inputs, bias_init=1.0)
        self.up = up
        fan_in = inputs * kernel_size**2
        self.gain = 1.0 / math.sqrt(fan_in)
        self.epsilon = EPSILON if scale_before_demodulation else EPSILON / fan_in

    def forward(self, x: Tensor, w: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """Filter features `(n, inputs, h, w)` in the style of latents `(n, w_dim)`.

        Returns:
            The modulated features `(n, outputs, h, w)`, twice as large if `up`, and the factor `(n, outputs, 1, 1)`
            that demodulates them (section 2.2, equation 3): one over their expected standard deviation. Left to the
            caller, who has other factors to apply in the same pass, or wants none.
        """
        weight = self.weight * self.gain
        style = self.affine(w)  # (n, inputs)
        x = x * style[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            taps = len(kernel)
            x = blur(x, kernel, ((taps - 1) // 2, (taps - 2) // 2), gain=4.0)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        energy = style.square() @ weight.square().sum(dim=(2, 3)).t()  # (n, outputs)
        return x, torch.rsqrt(energy + self.epsilon)[:, :, None, None]
