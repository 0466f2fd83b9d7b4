"""The CNN of Nataraj et al. 2019, "Detecting GAN generated fake images using co-occurrence matrices"."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

_WIDTHS = (32, 64, 128)
_HIDDEN, _CELLS = 256, 16


class Nataraj2019(nn.Module):
    """Three times a 3 x 3 and a 5 x 5 convolution and max-pooling, then a dense layer of 256.

    As in the paper: 32, 64 and 128 channels, the first convolution with stride 2, ReLU, made for matrices of 256 x 256,
    of which 16 x 16 positions remain. Inputs of other sizes are averaged to as many. It is trained here with AdamW and
    the rate of other networks; the paper's optimiser could not be verified.
    """

    default_cfg = {"classifier": "classifier"}  # noqa: RUF012 (as timm's models have it)

    def __init__(self, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for place, width in enumerate(_WIDTHS):
            layers += [nn.Conv2d(channels, width, 3, stride=1 if place else 2, padding=1), nn.ReLU(inplace=True)]
            layers += [nn.Conv2d(width, width, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2, ceil_mode=True)]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(channels * _CELLS**2, _HIDDEN), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(_HIDDEN, num_classes)
        self.num_features = _HIDDEN

    def forward_features(self, images: Tensor) -> Tensor:
        """Maps (N, 128, h, w) of images (N, C, H, W)."""
        maps: Tensor = self.layers(images)
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (N, 256) of maps, or with `pre_logits=False` logits (N, K)."""
        features: Tensor = self.hidden(adaptive_avg_pool2d(maps, _CELLS))
        return features if pre_logits else self.classifier(features)

    def get_classifier(self) -> nn.Linear:
        """The last layer: features (N, 256) to logits (N, K)."""
        return self.classifier
