"""Pretrained weights of timm's models, from the hub or its cache."""

from __future__ import annotations

from pathlib import Path

import timm
from huggingface_hub import HfApi, try_to_load_from_cache
from torch import Tensor

_FILES = ("model.safetensors", "pytorch_model.bin")
_SECONDS = 30


def pretrained_weights(name: str) -> dict[str, Tensor]:
    """State dict of a timm model, such as `resnet50` or `resnet50.tv_in1k`, with its pretrained weights.

    Raises:
        OSError: no hub and nothing in its cache; found out in seconds, where the hub's own download tries for a minute.
        ValueError: a model without pretrained weights.
    """
    found = timm.get_pretrained_cfg(name)
    if found is None or not found.has_weights:
        raise ValueError(f"timm has no pretrained weights of {name}")
    overlay: dict[str, str] = {}
    if found.hf_hub_id:
        stored = [try_to_load_from_cache(found.hf_hub_id, file) for file in _FILES]
        paths = [path for path in stored if isinstance(path, str) and Path(path).is_file()]
        if paths:
            overlay["file"] = paths[0]
        else:
            try:
                HfApi().model_info(found.hf_hub_id, timeout=_SECONDS)
            except Exception as error:  # of whatever library carries the request
                raise OSError(f"{type(error).__name__}: {error}") from error
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    state: dict[str, Tensor] = model.state_dict()
    return state
