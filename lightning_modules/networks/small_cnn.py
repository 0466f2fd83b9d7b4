"""A six-layer CNN for small images: the first two layers see every pixel at full resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SMALL_CNNS = {"small_cnn": 32, "small_cnn_16": 16}
"""Channels of the first layer by the network's name."""
STRIDES = (1, 1, 2, 1, 2, 1)


class SmallCNN(nn.Module):
    """3x3 convolutions, each with batch normalisation and ReLU, then the mean over positions and a linear layer.

    Traces of a generator are faint and local, so nothing is pooled before the third layer. It offers what
    `SourceNetwork` asks of a timm model.

    Args:
        num_classes: Number of sources K.
        width: Channels of the first two layers; the next two have twice, the last two four times as many.
    """

    def __init__(self, num_classes: int, width: int = SMALL_CNNS["small_cnn"]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for level, stride in enumerate(STRIDES):
            outputs = width * 2 ** (level // 2)
            convolution = nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            channels = outputs
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)
        self.num_features = channels
        self.default_cfg = {"classifier": "classifier"}
        self.to(memory_format=torch.channels_last)  # a sixth faster on a CPU

    def forward_features(self, images: Tensor) -> Tensor:
        """Maps (N, d, h, w) of images (N, 3, H, W)."""
        maps: Tensor = self.layers(images)
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (N, d) of maps (N, d, h, w), or with `pre_logits=False` logits (N, K)."""
        features = maps.mean(dim=(2, 3))
        return features if pre_logits else self.classifier(features)

    def get_classifier(self) -> nn.Linear:
        """The last layer: features (N, d) to logits (N, K)."""
        return self.classifier
