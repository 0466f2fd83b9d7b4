"""Configs and checkpoints of earlier versions under today's names: people keep their runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning_modules.fingerprints import settings as fingerprint
from lightning_modules.representations import settings as attribution

_TRANSLATE: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "Attributor": attribution.current_settings,
    "LatentFingerprint": fingerprint.current_settings,
}
"""What gives the settings of each module their names and groups of today."""
_HELD_BY = {"Attributor": {"embedding", "controls"}, "LatentFingerprint": {"generator", "fingerprint", "decoder"}}
"""Hyper-parameters that a checkpoint of each module holds, in every version."""


def current_config(config: Any) -> Any:
    """A run's config with the settings of its module under today's names; any other config as it is."""
    model = config.get("model") if isinstance(config, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(model.get("init_args"), Mapping):
        return config
    translate = _TRANSLATE.get(str(model.get("class_path")).rpartition(".")[2])
    if translate is None:
        return config
    return {**config, "model": {**model, "init_args": translate(model["init_args"])}}


def current_hyper_parameters(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters that a checkpoint of any module holds, under today's names."""
    for name, held in _HELD_BY.items():
        if held <= set(stored):
            return _TRANSLATE[name](stored)
    return dict(stored)
