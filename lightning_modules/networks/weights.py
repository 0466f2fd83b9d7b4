"""Pretrained backbone weights: timm's from the hub, or a local file; never a file that can execute code."""

from __future__ import annotations

from pathlib import Path

import timm
from torch import Tensor, nn

from lightning_modules.common.state_dicts import read_state_dict


def _from_file(path: Path, backbone: nn.Module) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"weights {path}: no such file; give `none`, `imagenet` or the path of a weights file")
    try:
        return read_state_dict(path, {name for name, _ in backbone.named_children()})
    except ValueError as error:
        raise ValueError(f"weights {error}") from error


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
        ValueError: A file that is truncated, or more than tensors; missing, unexpected or misshapen tensors, which
            the message names.
    """
    state = _from_hub(name) if weights == "imagenet" else _from_file(Path(weights), backbone)
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
