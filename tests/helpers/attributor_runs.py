"""Helpers of this folder's tests, some of them named by class path in a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback

CONFIG = Path(__file__).parent / "small.yaml"


class PowerCutError(RuntimeError):
    """What ``PowerCut`` raises."""


class PowerCut(Callback):
    """Fails in the middle of an epoch.

    Args:
        epoch: In this epoch, 0-based, at its second batch.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == self.epoch and batch_idx == 1:
            raise PowerCutError


def write_config(folder: Path, gm_root: Path, **changes: dict[str, Any]) -> Path:
    """The small config on a data set, with changes by section (`model`, `data`, `trainer`)."""
    config = yaml.safe_load(CONFIG.read_text())
    config["data"]["init_args"]["root"] = str(gm_root)
    for section, values in changes.items():
        target = config[section] if section == "trainer" else config[section]["init_args"]
        target.update(values)
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def main_weights(checkpoint: Path | str) -> dict[str, torch.Tensor]:
    """Weights of the attributor proper, without its controls."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("networks.networks.main.")}
