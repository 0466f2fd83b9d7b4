"""LPIPS (Zhang et al. 2018): the paper's loss, with weights by path where the download is out of reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from lightning_modules.common.weights import read_state_dict
from lightning_modules.fingerprints.decoders.losses.registry import ImageLoss

TRUNKS = {"vgg": "vgg16", "squeeze": "squeezenet1_1", "alex": "alexnet"}
TRUNK = ("features", "classifier")
"""Parts of torchvision's networks; a file may hold the first alone."""


class Perceptual(ImageLoss):
    """LPIPS version 0.1: weighted squared differences of unit-normalised activations, averaged over the image.

    Args:
        network: `vgg` (the paper's), `squeeze` or `alex`.
        trunk: file of the ImageNet weights of torchvision's network (a state dict); None looks where torch keeps
            downloads and fetches them if it may.

    Raises:
        ValueError: an unknown network.
        FileNotFoundError: no weights; names the file to get and where to put it.
    """

    def __init__(self, network: str = "vgg", trunk: str | None = None) -> None:
        super().__init__()
        if network not in TRUNKS:
            raise ValueError(f"found network {network!r}, expected {', '.join(TRUNKS)}")
        import lpips

        self.metric: nn.Module = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
        _load_trunk(self.metric.net, network, trunk)
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Unit-normalised activations of each layer, scaled by the root of LPIPS's weights."""
        metric = self.metric
        found = []
        for activation, linear in zip(
            metric.net(metric.scaling_layer(images * 2.0 - 1.0)),  # type: ignore[operator]
            metric.lins,  # type: ignore[arg-type]
            strict=True,
        ):
            unit = activation / (activation.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
            found.append(unit * linear.model[-1].weight.clamp_min(0.0).sqrt())
        return found

    def distance(self, features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Sum over layers and channels, mean over positions, `(n,)`."""
        errors = [(a - b).square().sum(dim=1).flatten(1).mean(dim=1) for a, b in zip(features, targets, strict=True)]
        return sum(errors, start=torch.zeros_like(errors[0]))


def _load_trunk(net: nn.Module, network: str, trunk: str | None) -> None:
    """Fill the slices of LPIPS's network, whose layers keep torchvision's numbers, from torchvision's weights."""
    import torchvision

    name = TRUNKS[network]
    weights = torchvision.models.get_model_weights(name).DEFAULT
    file = Path(trunk or Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name)
    if file.is_file():
        state = read_state_dict(file, TRUNK)
    elif trunk is not None:
        raise FileNotFoundError(f"found no file {trunk}, expected the weights of torchvision's {name}")
    else:
        try:
            state = weights.get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise FileNotFoundError(
                f"found no {file} and could not fetch {weights.url} ({error}); put that file there, name it as trunk, "
                "or choose a loss that needs no download: pixels"
            ) from error
    features = {key[len("features.") :]: value for key, value in state.items() if key.startswith("features.")}
    wanted = {key.split(".", 1)[1]: key for key in net.state_dict()}  # "slice1.0.weight" -> "0.weight"
    missing = sorted(set(wanted) - set(features))
    if missing:
        raise ValueError(f"found weights without features.{missing[0]}, expected those of torchvision's {name}")
    net.load_state_dict({full: features[short] for short, full in wanted.items()}, strict=True)


class NetworkFeatures(ImageLoss):
    """Mean squared difference of the unit-normalised activations of a timm network's stages.

    Args:
        network: name of a timm network that offers `features_only`.
        weights: file of its state dict; None lets timm fetch pretrained weights, `random` leaves it untrained.
        stages: positions of the stages to compare; None for all.

    Raises:
        FileNotFoundError: no such file of weights.
        ValueError: weights of another network, or a file that holds more than tensors.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: str, weights: str | None = None, stages: Sequence[int] | None = None) -> None:
        super().__init__()
        options: dict[str, Any] = {} if stages is None else {"out_indices": tuple(stages)}
        self.network: nn.Module = timm.create_model(network, pretrained=weights is None, features_only=True, **options)
        if weights not in (None, "random"):
            file = Path(str(weights))
            if not file.is_file():
                raise FileNotFoundError(f"found no file {file}, expected a state dict of timm's {network}")
            state = read_state_dict(file, {name for name, _ in self.network.named_children()})
            found = self.network.load_state_dict(state, strict=False)
            if found.missing_keys:
                raise ValueError(f"{file.name}: found no {found.missing_keys[0]}, expected the weights of {network}")
        config: Any = getattr(self.network, "pretrained_cfg", {})
        for name, default in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(config.get(name, default)).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Activations of each stage, of unit length at each position."""
        stages: list[Tensor] = self.network((images - self.mean) / self.std)
        return [stage / (stage.square().sum(dim=1, keepdim=True) + 1e-10).sqrt() for stage in stages]
