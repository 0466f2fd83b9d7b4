"""What names the source: a timm backbone (ResNet50 in ManiFPT, Sec. 5), a CNN of ours, or for vectors a head.

Artifacts are high-frequency and small images have few pixels, so what the first layers throw away matters. Stems:

- ``imagenet``: the backbone's own (ResNet: 7x7 stride 2, then 3x3 max-pooling stride 2). For images of about 200 px.
- ``small``: 3x3 stride 1, no pooling (the CIFAR stem). Keeps every pixel; 16 times the work of ``imagenet``.
- ``patch``: each 4x4 block of pixels becomes 48 channels (pixel-unshuffle), then 3x3 stride 1, no pooling, at the cost
  of ``imagenet``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lightning_modules.common.tables import did_you_mean
from lightning_modules.common.timm_hub import pretrained_weights
from lightning_modules.common.weights import misfits, read_state_dict
from lightning_modules.networks.nataraj2019 import Nataraj2019
from lightning_modules.networks.yu2019 import Yu2019


def _from_file(path: Path, backbone: nn.Module) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"weights {path}: no such file; give `none`, `imagenet` or the path of a weights file")
    try:
        return read_state_dict(path, {name for name, _ in backbone.named_children()})
    except ValueError as error:
        raise ValueError(f"weights {error}") from error


def _from_hub(name: str) -> dict[str, Tensor]:
    try:
        return pretrained_weights(name)
    except (OSError, RuntimeError, ValueError) as error:
        raise FileNotFoundError(
            f"ImageNet weights of {name}: the hub could not be reached ({type(error).__name__}). Offline, "
            "copy the weights file here and give its path as `weights: PATH`, or train anew with `weights: none`."
        ) from error


def load_backbone_weights(backbone: nn.Module, name: str, weights: str, new_stem: bool) -> None:
    """Fill a timm backbone, in place, with pretrained weights: ``imagenet`` or a path.

    The classifier keeps its initialisation, and so does a replaced stem (``new_stem``).

    Raises:
        FileNotFoundError: No such file, or no hub.
        ValueError: A file that is truncated, or more than tensors; missing, unexpected or misshapen tensors, which
            the message names.
    """
    state = _from_hub(name) if weights == "imagenet" else _from_file(Path(weights), backbone)
    own = backbone.state_dict()
    head = str(backbone.default_cfg["classifier"])  # type: ignore[index]
    free = (f"{head}.", "conv1.") if new_stem else (f"{head}.",)
    state = {key: value for key, value in state.items() if not key.startswith(free)}
    if problems := misfits(own, state, lambda key: key.startswith(free)):
        raise ValueError(f"weights {weights} do not fit {name}: {problems}; use the weights of exactly this model")
    backbone.load_state_dict(own | state)


SMALL_CNNS = {"small_cnn": 32, "small_cnn_16": 16}
"""Channels of the first layer by the network's name."""
STRIDES = (1, 1, 2, 1, 2, 1)


class SmallCNN(nn.Module):
    """3x3 convolutions, each with batch normalisation and ReLU, then the mean over positions and a linear layer.

    Traces of a generator are faint and local, so nothing is pooled before the third layer. The first two layers have
    ``width`` channels, the next two twice, the last two four times as many. It offers what `SourceNetwork` asks of a
    timm model.
    """

    def __init__(self, num_classes: int, width: int = SMALL_CNNS["small_cnn"], channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
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
        """Maps (N, d, h, w) of images (N, C, H, W)."""
        maps: Tensor = self.layers(images)
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (N, d) of maps (N, d, h, w), or with `pre_logits=False` logits (N, K)."""
        features = maps.mean(dim=(2, 3))
        return features if pre_logits else self.classifier(features)

    def get_classifier(self) -> nn.Linear:
        """The last layer: features (N, d) to logits (N, K)."""
        return self.classifier


class Standardised(nn.Module):
    """A network whose input is standardised with the mean and deviation of the training images (or vectors).

    Until ``set_input_statistics`` is called, the input enters as it is.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input_mean: Tensor
        self.input_std: Tensor
        self.register_buffer("input_mean", torch.zeros(channels))
        self.register_buffer("input_std", torch.ones(channels))

    def set_input_statistics(self, statistics: tuple[Tensor, Tensor]) -> None:
        """Standardise the input from now on: mean and deviation by channel or coordinate, (C,) each.

        A constant one is left unscaled. The statistics travel with the weights.
        """
        mean, std = statistics
        self.input_mean.copy_(mean)
        self.input_std.copy_(torch.where(std > 0, std, torch.ones_like(std)))


STEMS = ("imagenet", "small", "patch")
_PATCH = 4
OWN_NETWORKS = (*SMALL_CNNS, "nataraj2019", "yu2019")
"""Networks that are not timm's."""
ANOTHER_LAST_LAYER = {"wang2020": "resnet50"}
"""timm models whose last layer's weights begin as N(0, 0.02) (Wang et al. 2020), by the names they have here."""
_LAST_LAYER_STD = 0.02


def _own_network(name: str, num_classes: int, channels: int, size: int) -> nn.Module:
    if name == "nataraj2019":
        return Nataraj2019(num_classes, channels)
    if name == "yu2019":
        return Yu2019(num_classes, size, channels)
    return SmallCNN(num_classes, SMALL_CNNS[name], channels)


class SourceNetwork(Standardised):
    """Images or artifacts to logits over sources, and the penultimate features that FDR and t-SNE look at.

    Args:
        name: A timm model, ``resnet50`` in the paper, or one of ``OWN_NETWORKS`` or ``ANOTHER_LAST_LAYER``.
        stem: One of ``STEMS``; other than ``imagenet`` only for timm's ResNets and its ``legacy_xception``.
        weights: ``none``, ``imagenet`` (timm's, from the hub) or the path of a file with such weights.
        input_size: Bilinear resize of the input to this many pixels before the stem; None keeps its size.
        seed: Of the random initialisation; the global random state is left as it was.
        size: Pixels of the images' shorter side, for networks that depend on it.

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
        channels: int = 3,
        size: int = 128,
    ) -> None:
        super().__init__(channels)
        if stem not in STEMS:
            raise ValueError(f"stem is {stem!r}; expected one of {', '.join(STEMS)}")
        model = ANOTHER_LAST_LAYER.get(name, name)
        if name not in OWN_NETWORKS and not timm.is_model(model):
            own = [*OWN_NETWORKS, *ANOTHER_LAST_LAYER]
            near = did_you_mean(name, [*own, *timm.list_models()], "expected a name of timm.list_models()")
            raise ValueError(f"timm has no model {name!r}; {near}")
        if name in OWN_NETWORKS and weights == "imagenet":
            raise ValueError(f"{name} has no ImageNet weights; name another network, or give `weights: none`")
        self.input_size = input_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone: Any
            if name in OWN_NETWORKS:
                self.backbone = _own_network(name, num_classes, channels, input_size or size)
            else:
                self.backbone = timm.create_model(model, num_classes=num_classes, in_chans=channels)
            if name in ANOTHER_LAST_LAYER:
                nn.init.normal_(self.backbone.get_classifier().weight, std=_LAST_LAYER_STD)
            self.num_features = int(self.backbone.num_features)
            if stem != "imagenet":
                self._replace_stem(name, stem, channels)
        if weights != "none":
            load_backbone_weights(self.backbone, model, weights, new_stem=stem != "imagenet")

    def _replace_stem(self, name: str, stem: str, channels: int) -> None:
        first, pool = getattr(self.backbone, "conv1", None), getattr(self.backbone, "maxpool", None)
        if first is None or (pool is None and not takes_stem(name)):
            found = f"stem {stem!r} needs a ResNet of timm's, or its legacy_xception, found {name!r}; use `imagenet`"
            raise ValueError(found)
        width = self.backbone.bn1.num_features
        inputs = channels if stem == "small" else channels * _PATCH**2
        convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.backbone.conv1 = convolution if stem == "small" else nn.Sequential(nn.PixelUnshuffle(_PATCH), convolution)
        if pool is not None:
            self.backbone.maxpool = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and penultimate features (N, d), d = 2048 for ResNet50, of images or artifacts (N, C, H, W)."""
        if self.input_size is not None and images.shape[-1] != self.input_size:
            size = (self.input_size, self.input_size)
            images = interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        images = (images - self.input_mean[:, None, None]) / self.input_std[:, None, None]
        features = self.backbone.forward_head(self.backbone.forward_features(images), pre_logits=True)
        return self.classify(features), features

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features (N, d)."""
        logits: Tensor = self.backbone.get_classifier()(features)
        return logits


def takes_stem(name: str) -> bool:
    """Whether a network's first convolution can be replaced, so that small images keep every pixel."""
    return ANOTHER_LAST_LAYER.get(name, name).startswith(("resnet", "test_resnet", "legacy_xception"))


VECTOR_HEADS = {"linear": 0, "mlp_bn": 128, "mlp": 256}
"""Units of the hidden layer by the head's name; `mlp_bn` has batch normalisation in it."""
RULE_NAMES = ("logistic", "svm", "knn", "correlation")
"""What is fitted to vectors without gradients (`rules.RULES`)."""


class VectorHead(Standardised):
    """Vectors (N, d) to logits over sources: a linear layer, or one hidden layer (``VECTOR_HEADS``)."""

    def __init__(self, name: str, dimensions: int, num_classes: int, seed: int = 0) -> None:
        super().__init__(dimensions)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hidden = VECTOR_HEADS[name]
            self.num_features = hidden or dimensions
            self.hidden: nn.Module = nn.Identity()
            if hidden:
                normalised = [nn.BatchNorm1d(hidden)] if name == "mlp_bn" else []
                self.hidden = nn.Sequential(nn.Linear(dimensions, hidden), *normalised, nn.ReLU())
            self.classifier = nn.Linear(self.num_features, num_classes)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and features, those of the hidden layer or (N, d) of a linear head, of vectors (N, d)."""
        features: Tensor = self.hidden((vectors - self.input_mean) / self.input_std)
        return self.classify(features), features

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features (N, d)."""
        logits: Tensor = self.classifier(features)
        return logits
