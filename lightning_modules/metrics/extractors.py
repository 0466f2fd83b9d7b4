"""Feature extractors for Frechet distances, by a word that is part of the metric's name.

| word | features | metric |
|---|---|---|
| `fashion_cnn` | classifier of Fashion-MNIST that ships, 64 | `fid_fashion_cnn` |
| `inception` | InceptionV3 of 2015-12-05, downloaded, 2,048 | `fid_inception` |
| `inception:PATH` | the same from a local file | `fid_inception`; with other weights `fid_inception_<hash>` |
| `timm:NAME` | pooled features of a timm model from the hub | `fid_timm_NAME.tag` |
| `timm:NAME:PATH` | the same from a local file | `fid_timm_NAME_<hash>` |
| `timm:NAME:package` | the same from a package of the extra `embeddings` | `fid_timm_NAME_<hash>` |

Every extractor is given 8-bit images, for a distance between sources is one between the files they make.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.common.packaged_networks import packaged_weights
from lightning_modules.common.tables import Table, did_you_mean
from lightning_modules.common.weights import content_hash, read_state_dict
from lightning_modules.metrics.fashion_cnn import FashionCNN, load_fashion_cnn

WORDS = "fashion_cnn, inception, inception:PATH, timm:NAME, timm:NAME:PATH or timm:NAME:package"
PACKAGE = "package"
AVERAGE_FIRST = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where timm's training puts a state dict; timm itself takes the averaged one first."""


class FeatureExtractor(nn.Module):
    """A frozen network that gives one vector per image.

    Args:
        name: what its features are called in the metric's name; other weights need another name.
        num_features: length of a vector.
        network: uint8 images `(n, 3, H, W)` to features `(n, num_features)`; frozen here.
    """

    def __init__(self, name: str, num_features: int, network: nn.Module) -> None:
        super().__init__()
        self.name, self.num_features = name, num_features
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stay in evaluation mode: statistics of batches must not enter a distance."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features `(n, num_features)` of uint8 images `(n, 3, H, W)`.

        Raises:
            ValueError: other images, or a network that gives something else.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(f"found {images.dtype} images {tuple(images.shape)}; expected uint8 (n, 3, H, W)")
        features: Tensor = self.network(images)
        if features.shape != (len(images), self.num_features):
            raise ValueError(
                f"{self.name} gave features {tuple(features.shape)} for {len(images)} images; "
                f"expected {(len(images), self.num_features)}"
            )
        return features


EXTRACTORS = Table(
    "features",
    {
        "fashion_cnn": "lightning_modules.metrics.extractors:fashion_extractor",
        "inception": "lightning_modules.metrics.extractors:inception_extractor",
        "timm": "lightning_modules.metrics.extractors:timm_extractor",
    },
)
"""What makes each extractor, from the part of the word behind the colon; a new one is one file and one line here."""


def build_extractor(word: str) -> FeatureExtractor:
    """Build the extractor of a word (see the module's table).

    Raises:
        ValueError: an unknown word or model, or weights that do not fit.
        FileNotFoundError: no such file, or no network to download over.
    """
    check_extractor(word)
    kind, _, rest = word.partition(":")
    extractor: FeatureExtractor = EXTRACTORS.load(kind)(rest)
    return extractor


def check_extractor(word: str) -> None:
    """Refuse, by a ValueError, a word of no extractor; whether its weights are at hand is not looked at."""
    kind, colon, rest = word.partition(":")
    if kind not in EXTRACTORS or (colon and not rest):
        found = f"features are {word!r}; {did_you_mean(kind, EXTRACTORS)} expected {WORDS}"
        raise ValueError(found.replace(";  ", "; "))


def fashion_extractor(rest: str = "") -> FeatureExtractor:
    """The classifier of Fashion-MNIST that ships; takes nothing behind its name."""
    if rest:
        raise ValueError(f"features are 'fashion_cnn:{rest}'; expected {WORDS}")
    network = load_fashion_cnn()
    return FeatureExtractor("fashion_cnn", network.num_features, _Garments(network))


def inception_extractor(path: str = "") -> FeatureExtractor:
    """InceptionV3 of 2015-12-05, from a local file or else downloaded."""
    from lightning_modules.metrics.inception import load_inception  # imports torchvision

    inception, name = load_inception(Path(path) if path else None)
    return FeatureExtractor(name, inception.num_features, inception)


def timm_extractor(model: str) -> FeatureExtractor:
    """Pooled features of any timm model, at the input size and scaling it was trained with (antialiased).

    Behind a colon its name may have a local file of its tensors, or `package` for those that a package brings
    (`lightning_modules.common.packaged_networks`); else they come from the hub.

    Raises:
        ValueError: no such model, or weights that do not fit it.
        FileNotFoundError: no such file or package, or no hub.
    """
    if not model:
        raise ValueError(f"features are 'timm'; expected {WORDS}")
    import timm
    from timm.data.config import resolve_model_data_config

    model_name, _, path = model.partition(":")
    base = model_name.partition(".")[0]
    if not timm.is_model(base):
        near = timm.list_models(f"{base[:6]}*")[:5]
        raise ValueError(f"timm has no model {model_name!r}; names that begin alike: {', '.join(near) or 'none'}")
    if path == PACKAGE:
        network, name = _timm_from_package(model_name)
    else:
        network, name = _timm_from_file(model_name, Path(path)) if path else _timm_from_hub(model_name)
    settings = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    network.reset_classifier(0)
    return FeatureExtractor(f"timm_{name}", network.num_features, _Scaled(network, settings))


class _Garments(nn.Module):
    """Penultimate features of the classifier that ships."""

    def __init__(self, network: FashionCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.features(images.float() / 255)


class _Scaled(nn.Module):
    """A timm network behind the input scaling of its configuration."""

    def __init__(self, network: nn.Module, settings: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.side = tuple(settings["input_size"][1:])
        self.mode = settings["interpolation"] if settings["interpolation"] in ("bilinear", "bicubic") else "bicubic"
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(settings["mean"]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(settings["std"]).reshape(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        scaled = images.float() / 255
        if scaled.shape[2:] != self.side:
            scaled = F.interpolate(scaled, self.side, mode=self.mode, align_corners=False, antialias=True).clamp(0, 1)
        features: Tensor = self.network((scaled - self.mean) / self.std)
        return features


def _timm_from_hub(model_name: str) -> tuple[Any, str]:
    import timm

    try:
        network: Any = timm.create_model(model_name, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise FileNotFoundError(
            f"weights of timm's {model_name}: the hub could not be reached ({type(error).__name__}). Offline, copy the "
            f"weights file here and name it: timm:{model_name}:PATH"
        ) from error
    tag = network.pretrained_cfg.get("tag")
    base = model_name.partition(".")[0]
    return network, f"{base}.{tag}" if tag else base


def _timm_from_package(model_name: str) -> tuple[Any, str]:
    import timm

    state = packaged_weights(model_name)
    network: Any = timm.create_model(model_name, pretrained=False)
    network.load_state_dict(state)
    return network, f"{model_name}_{content_hash(state)[:8]}"


def _timm_from_file(model_name: str, weights: Path) -> tuple[Any, str]:
    if not weights.is_file():
        raise FileNotFoundError(f"weights {weights} of timm's {model_name}: no such file; expected timm:NAME:PATH")
    import timm

    network: Any = timm.create_model(model_name, pretrained=False)
    try:
        if weights.suffix == ".npz":  # arrays under JAX's names, which timm renames
            timm.models.load_checkpoint(network, str(weights))
        else:
            beginnings = {name for name, _ in network.named_children()}
            network.load_state_dict(read_state_dict(weights, beginnings, AVERAGE_FIRST))
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"weights {weights} do not fit timm's {model_name} ({str(error).splitlines()[0]}); expected a state dict "
            "or safetensors of exactly this model, tensors alone"
        ) from error
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return network, f"{model_name.partition('.')[0]}_{digest[:8]}"
