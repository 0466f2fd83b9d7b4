"""Distance in the features of any timm network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from lightning_modules.common.state_dicts import read_state_dict
from lightning_modules.fingerprints.losses.image_loss import ImageLoss


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
