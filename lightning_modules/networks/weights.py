"""Pretrained backbone weights: timm's from the hub, or a local file; never a file that can execute code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors or from a PyTorch file (also below ``state_dict`` or ``model``).

    Raises:
        FileNotFoundError: No such file.
        ValueError: Truncated, no state dict, or a file that holds more than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"weights {path}: no such file; give `none`, `imagenet` or the path of a weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"weights {path}: not readable as tensors alone ({str(error).splitlines()[0]}); "
            "save it again as safetensors or with torch.save(model.state_dict(), ...)"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"weights {path}: holds {type(content).__name__}, expected a mapping of names to tensors")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _from_hub(name: str) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        raise FileNotFoundError(
            f"ImageNet weights of {name}: the hub could not be reached ({type(error).__name__}). Offline, "
            "copy the weights file here and give its path as `weights: PATH`, or train anew with `weights: none`."
        ) from error
    return state


def load_backbone_weights(backbone: nn.Module, name: str, weights: str, new_stem: bool) -> None:
    """Fill a timm backbone with pretrained weights; the classifier, and a replaced stem, keep their initialisation.

    Args:
        backbone: The model to fill, in place.
        name: Its timm name.
        weights: ``imagenet`` or a path.
        new_stem: Whether the stem was replaced, so that the file's first convolution has no place.

    Raises:
        FileNotFoundError: No such file, or no hub.
        ValueError: Missing, unexpected or misshapen tensors; the message names them.
    """
    state = _from_hub(name) if weights == "imagenet" else read_state_dict(Path(weights))
    own = backbone.state_dict()
    head = str(backbone.default_cfg["classifier"])  # type: ignore[index]
    free = (f"{head}.", "conv1.") if new_stem else (f"{head}.",)
    state = {key: value for key, value in state.items() if not key.startswith(free)}
    missing = [key for key in own if not key.startswith(free) and key not in state]
    unexpected = [key for key in state if key not in own]
    misshapen = [
        f"{key} {tuple(value.shape)} (expected {tuple(own[key].shape)})"
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    ]
    if missing or unexpected or misshapen:
        raise ValueError(
            f"weights {weights} do not fit {name}: missing {missing[:3]} ({len(missing)}), "
            f"unexpected {unexpected[:3]} ({len(unexpected)}), wrong shape {misshapen[:3]} ({len(misshapen)}); "
            "use the weights of exactly this model"
        )
    backbone.load_state_dict(own | state)
