"""The network that names the source: a timm backbone (ResNet50 in ManiFPT, Sec. 5) or a small CNN, with its stem.

Artifacts are high-frequency and small images have few pixels, so what the first layers throw away matters. Stems:

- ``imagenet``: the backbone's own (ResNet: 7x7 stride 2, then 3x3 max-pooling stride 2). For images of about 200 px.
- ``small``: 3x3 stride 1, no pooling (the CIFAR stem). Keeps every pixel; 16 times the work of ``imagenet``.
- ``patch``: each 4x4 block of pixels becomes 48 channels (pixel-unshuffle), then 3x3 stride 1, no pooling, at the cost
  of ``imagenet``.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lightning_modules.networks.small_cnn import SMALL_CNNS, SmallCNN
from lightning_modules.networks.weights import load_backbone_weights

STEMS = ("imagenet", "small", "patch")
_PATCH = 4


class SourceNetwork(nn.Module):
    """Images or artifacts to logits over sources, and the penultimate features that FDR and t-SNE look at.

    Its input is standardised channel by channel with the mean and deviation of the training images
    (``set_input_statistics``); until they are set it enters as it is.

    Args:
        name: A timm model, ``resnet50`` in the paper, or a small CNN (``SMALL_CNNS``).
        num_classes: Number of sources K.
        stem: One of ``STEMS``; other than ``imagenet`` only for timm's ResNets.
        weights: ``none``, ``imagenet`` (timm's, from the hub) or the path of a file with such weights.
        input_size: Bilinear resize of the input to this many pixels before the stem; None keeps its size.
        seed: Of the random initialisation; the global random state is left as it was.

    Raises:
        ValueError: Unknown model or stem, a stem the model cannot take, or weights that do not fit.
        FileNotFoundError: The weights are neither on disk nor to be had from the hub.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        stem: str = "imagenet",
        weights: str = "none",
        input_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise ValueError(f"stem is {stem!r}; expected one of {', '.join(STEMS)}")
        if name not in SMALL_CNNS and not timm.is_model(name):
            near = get_close_matches(name, [*SMALL_CNNS, *timm.list_models()], n=5, cutoff=0.5)
            raise ValueError(f"timm has no model {name!r}; similar names: {', '.join(near) or 'none'}")
        if name in SMALL_CNNS and weights == "imagenet":
            raise ValueError(f"{name} has no ImageNet weights; name another network, or give `weights: none`")
        self.input_size = input_size
        self.input_mean: Tensor
        self.input_std: Tensor
        self.register_buffer("input_mean", torch.zeros(3))
        self.register_buffer("input_std", torch.ones(3))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone: Any = (
                SmallCNN(num_classes, SMALL_CNNS[name])
                if name in SMALL_CNNS
                else timm.create_model(name, pretrained=False, num_classes=num_classes)
            )
            self.num_features = int(backbone.num_features)
            self.backbone: Any = backbone
            if stem != "imagenet":
                self._replace_stem(name, stem)
        if weights != "none":
            load_backbone_weights(self.backbone, name, weights, new_stem=stem != "imagenet")

    def _replace_stem(self, name: str, stem: str) -> None:
        first, pool = getattr(self.backbone, "conv1", None), getattr(self.backbone, "maxpool", None)
        if first is None or pool is None:
            raise ValueError(
                f"stem {stem!r} needs a ResNet of timm's; {name!r} lacks conv1 and maxpool, use `imagenet`"
            )
        width = self.backbone.bn1.num_features
        inputs = 3 if stem == "small" else 3 * _PATCH**2
        convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.backbone.conv1 = convolution if stem == "small" else nn.Sequential(nn.PixelUnshuffle(_PATCH), convolution)
        self.backbone.maxpool = nn.Identity()

    def set_input_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Standardise the input from now on; the statistics travel with the weights.

        Args:
            mean: Of each channel over the training images, (3,).
            std: Standard deviation likewise; a channel without any is left unscaled.
        """
        self.input_mean.copy_(mean)
        self.input_std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features of a batch.

        Args:
            images: float32 (N, 3, H, W), images or signed artifacts, before standardisation.

        Returns:
            Logits (N, K) and penultimate features (N, d), d = 2048 for ResNet50.
        """
        if self.input_size is not None and images.shape[-1] != self.input_size:
            size = (self.input_size, self.input_size)
            images = interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        images = (images - self.input_mean[:, None, None]) / self.input_std[:, None, None]
        features = self.backbone.forward_head(self.backbone.forward_features(images), pre_logits=True)
        logits: Tensor = self.backbone.get_classifier()(features)
        return logits, features
