"""The attribution network of Yu, Davis and Fritz 2019, "Attributing fake images to GANs" (ICCV)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, leaky_relu, linear, pad

_SLOPE, _CELLS, _WIDEST = 0.2, 4, 512


class EqualConvolution(nn.Module):
    """A convolution or dense layer with an equalised learning rate (Karras et al. 2018, Sec. 4.1).

    Weights are of N(0, 1) and scaled by He's constant at run time, so that Adam moves all layers alike. A kernel of
    3 x 3 mirrors the border without its edge pixel.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int | None = None, gain: float = math.sqrt(2.0)) -> None:
        super().__init__()
        shape = (outputs, inputs) if kernel is None else (outputs, inputs, kernel, kernel)
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(math.prod(shape[1:]))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, H, W) to maps of the same size, or (N, d) to vectors."""
        weight = self.weight * self.scale
        if weight.ndim == 2:
            return linear(inputs, weight, self.bias)
        margin = weight.shape[-1] // 2
        return conv2d(pad(inputs, (margin,) * 4, mode="reflect"), weight, self.bias)


class Yu2019(nn.Module):
    """Pairs of 3 x 3 convolutions and average pooling down to 4 x 4, a last convolution, a dense layer of 512.

    As in the paper: at 128, 64, 32, 16 and 8 px two convolutions of 16, 32 | 32, 64 | 64, 128 | 128, 256 | 256, 512
    channels; at 4 px one of 512; leaky ReLU .2, no normalisation layers, equalised learning rates; Adam with betas 0
    and .99, a constant rate of 1e-3, batches of 32, mirrored images. Ours: images of other sizes begin at the level of
    their size (32 px: 64 channels; 256 px: 8), and sizes that are no power of two are averaged to 4 x 4 at the end.
    """

    default_cfg = {"classifier": "classifier"}  # noqa: RUF012 (as timm's models have it)

    def __init__(self, num_classes: int, size: int, channels: int = 3) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        resolution = 2 ** int(math.log2(max(size, 2 * _CELLS)))
        while resolution > _CELLS:
            first, second = (max(1, min(_WIDEST, width // resolution)) for width in (2048, 4096))
            self.levels.append(
                nn.ModuleList([EqualConvolution(channels, first, 3), EqualConvolution(first, second, 3)])
            )
            channels, resolution = second, resolution // 2
        self.last = EqualConvolution(channels, _WIDEST, 3)
        self.hidden = EqualConvolution(_WIDEST * _CELLS**2, _WIDEST)
        self.classifier = EqualConvolution(_WIDEST, num_classes, gain=1.0)
        self.num_features = _WIDEST

    def forward_features(self, images: Tensor) -> Tensor:
        """Maps (N, 512, h, w) of images (N, C, H, W)."""
        for level in self.levels:
            for convolution in level:  # type: ignore[attr-defined]
                images = leaky_relu(convolution(images), _SLOPE)
            images = nn.functional.avg_pool2d(images, 2)
        return leaky_relu(self.last(images), _SLOPE)

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (N, 512) of maps, or with `pre_logits=False` logits (N, K)."""
        features = leaky_relu(self.hidden(adaptive_avg_pool2d(maps, _CELLS).flatten(1)), _SLOPE)
        return features if pre_logits else self.classifier(features)

    def get_classifier(self) -> EqualConvolution:
        """The last layer: features (N, 512) to logits (N, K)."""
        return self.classifier
