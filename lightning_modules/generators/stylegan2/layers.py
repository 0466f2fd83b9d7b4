"""The layers of StyleGAN2 (Karras et al. 2020): equalised linear layers and modulated convolutions.

Weights are stored with unit variance and scaled when they are used (equalised learning rate, Karras et al. 2018), as
all public checkpoints store them. Modulation and demodulation scale the activations before and after one convolution
with shared weights, instead of building a filter for each image: the same values, and on a CPU much faster than the
grouped convolution of the fused form.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.generators.stylegan2.resampling import blur

SLOPE = 0.2
GAIN = math.sqrt(2.0)
EPSILON = 1e-8


def activate(x: Tensor, clamp: float | None = None) -> Tensor:
    """Leaky ReLU with slope 0.2 and gain sqrt(2), which keeps the variance; then limit to +- clamp."""
    x = F.leaky_relu(x, SLOPE) * GAIN
    return x if clamp is None else x.clamp(-clamp, clamp)


class EqualisedLinear(nn.Module):
    """Linear layer whose weights are scaled to `lr_multiplier / sqrt(inputs)` when used.

    Args:
        inputs: features in.
        outputs: features out.
        bias_init: value of the bias at the start, as used.
        lr_multiplier: factor on the effective learning rate (0.01 in the mapping network).
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
    """Convolution whose input channels are scaled by a style and whose output is brought back to unit variance.

    Args:
        w_dim: length of a style latent w.
        inputs: channels in.
        outputs: channels out.
        kernel_size: 3, or 1 for the layers that make RGB.
        up: double height and width: transposed convolution, then the filter.
        demodulate: divide by the expected standard deviation (section 2.2, equation 3).
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
        demodulate: bool = True,
        scale_before_demodulation: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel_size, kernel_size))
        self.affine = EqualisedLinear(w_dim, inputs, bias_init=1.0)
        self.up = up
        self.demodulate = demodulate
        fan_in = inputs * kernel_size**2
        self.gain = 1.0 / math.sqrt(fan_in)
        self.epsilon = EPSILON if scale_before_demodulation else EPSILON / fan_in

    def forward(self, x: Tensor, w: Tensor, kernel: Tensor) -> Tensor:
        """Filter `(n, inputs, h, w)` in the style of latents `(n, w_dim)`; `kernel` are the taps of the up-sampling."""
        weight = self.weight * self.gain
        style = self.affine(w)  # (n, inputs)
        x = x * style[:, :, None, None]
        if self.up:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            taps = len(kernel)
            x = blur(x, kernel, ((taps - 1) // 2, (taps - 2) // 2), gain=4.0)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            energy = style.square() @ weight.square().sum(dim=(2, 3)).t()  # (n, outputs)
            x = x * torch.rsqrt(energy + self.epsilon)[:, :, None, None]
        return x
