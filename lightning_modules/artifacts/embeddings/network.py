"""The spaces of networks (ManiFPT, Sec. 3): supervised features, SL, and self-supervised ones, SSL."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, normalize, resize

from lightning_modules.artifacts.embeddings.filters import check_images
from lightning_modules.artifacts.embeddings.registry import Embedding
from lightning_modules.common.packaged_networks import PACKAGED, packaged_weights
from lightning_modules.common.tables import did_you_mean
from lightning_modules.common.timm_hub import pretrained_weights
from lightning_modules.common.weights import content_hash, misfits, read_state_dict

HUB, PACKAGE = "hub", "package"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_NESTED = ("state_dict", "model", "teacher")  # of torchvision, Barlow Twins and DINO
_BACKBONE = "backbone."
BARLOW_TWINS = "https://dl.fbaipublicfiles.com/barlowtwins/ljng/resnet50.pth"
SUPERVISED_TAG = "tv_in1k"  # timm's copy of torchvision's IMAGENET1K_V1


class NetworkEmbedding(Embedding):
    """Pooled features of a frozen network, ``(N, d)``; d = 2048 for ResNet50.

    As the released code does, the network sees a centre crop of 224 pixels, standardised. What it does with images
    smaller than that is not said: here the shorter side is resized to 256 before (bilinear, antialiased).

    Args:
        network: A timm model.
        weights: ``hub``, ``package`` (from a package that this environment holds, see
            ``lightning_modules.common.packaged_networks``) or the path of a file.
        resize: Pixels of the shorter side before the crop; None leaves the image.
        crop: Pixels of the centre crop.
        mean: By which each channel is standardised, and
        std: its deviation; by default ImageNet's, or those of a packaged network.

    Raises:
        ValueError: No such model, or weights that do not fit it.
        FileNotFoundError: The weights are nowhere; the message names the alternatives.
    """

    preprocessing: ClassVar[str] = "shorter side resized (bilinear, antialias), centre crop, standardised; pooled"
    costly = True

    def __init__(
        self,
        network: str = "resnet50",
        weights: str = HUB,
        resize: int | None = 256,
        crop: int = 224,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> None:
        if not timm.is_model(network):
            near = did_you_mean(network, timm.list_models(), "expected a name of timm.list_models()")
            raise ValueError(f"timm has no model {network!r}; {near}")
        options: dict[str, Any] = (
            {"dynamic_img_size": True} if network.startswith("vit_") else {}
        )  # positions interpolated to the crop
        self.network: nn.Module = timm.create_model(network, num_classes=0, **options).eval().requires_grad_(False)
        self._fill(network, weights)
        known = PACKAGED[network] if weights == PACKAGE else None
        self._resize, self._crop = resize, crop
        self._mean = tuple(mean or (known.mean if known else _MEAN))
        self._std = tuple(std or (known.std if known else _STD))
        self.arguments = {
            "network": network,
            "weights": content_hash(self.network.state_dict()),
            "resize": resize,
            "crop": crop,
            "mean": list(self._mean),
            "std": list(self._std),
        }
        self.label = self.name if network == "resnet50" else f"{self.name}_{network}"

    def _fill(self, network: str, weights: str) -> None:
        if weights == PACKAGE:
            state = packaged_weights(network)
        elif weights == HUB:
            state = self._downloaded(network)
        else:
            state = _from_file(Path(weights))
        own = self.network.state_dict()
        head = str(self.network.default_cfg["classifier"])  # type: ignore[index]
        state = {name: tensor for name, tensor in state.items() if not name.startswith((f"{head}.", "mask_token"))}
        if problems := misfits(own, state, lambda name: name.endswith("num_batches_tracked")):
            raise ValueError(f"weights {weights} do not fit {network}: {problems}; use those of exactly this model")
        self.network.load_state_dict(own | state)

    def _downloaded(self, network: str) -> dict[str, Tensor]:
        try:
            return self._from_hub(network)
        except (OSError, RuntimeError, ValueError) as error:
            raise FileNotFoundError(
                f"weights of {network} for embedding {self.name}: the hub could not be reached "
                f"({type(error).__name__}). Offline, copy the weights file here and give its path, or name a network "
                f"that a package brings: --model.init_args.embedding '{{name: {self.name}, network: "
                f"{_packaged_for(self.name)}, weights: package}}'"
            ) from error

    def _from_hub(self, network: str) -> dict[str, Tensor]:
        return pretrained_weights(f"{network}.{SUPERVISED_TAG}" if network == "resnet50" else network)

    def to(self, device: torch.device) -> NetworkEmbedding:
        """The embedding on a device."""
        self.network.to(device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] to ``(N, d)`` float32."""
        images = check_images(images)
        if self._resize is not None:
            images = resize(images, [self._resize], antialias=True)
        images = normalize(center_crop(images, [self._crop]), list(self._mean), list(self._std))
        features: Tensor = self.network(images)
        return features.float()


def _from_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"weights {path}: no such file; give `hub`, `package` or the path of a weights file")
    state = read_state_dict(path, nested=_NESTED)
    inner = {name.removeprefix(_BACKBONE): tensor for name, tensor in state.items() if name.startswith(_BACKBONE)}
    return inner or state


def _packaged_for(space: str) -> str:
    return next((network for network, known in PACKAGED.items() if known.space == space), next(iter(PACKAGED)))


class SupervisedEmbedding(NetworkEmbedding):
    """Features of a network trained on labelled images: by default ResNet50 with ImageNet's V1 weights, the paper's."""

    name: ClassVar[str] = "sl"


class SelfSupervisedEmbedding(NetworkEmbedding):
    """Features of a network trained without labels: by default Barlow Twins' ResNet50, the paper's.

    DINO's and DINOv2's checkpoints are taken by path, with the timm model of their architecture.
    """

    name: ClassVar[str] = "ssl"

    def _from_hub(self, network: str) -> dict[str, Tensor]:
        if network != "resnet50":
            return super()._from_hub(network)
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            BARLOW_TWINS, map_location="cpu", weights_only=True
        )
        return state
