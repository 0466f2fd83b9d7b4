"""Checkpoint folders and a small generator."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from compvis_checkpoints import GOLDEN, SMALL, compvis_state
from seeded import seeded_tensor

from lightning_modules.generators.latent_diffusion import LatentDiffusionGenerator


@pytest.fixture
def small_arguments():
    return json.loads(json.dumps(SMALL))


@pytest.fixture
def generator(small_arguments):
    network = LatentDiffusionGenerator(**small_arguments)
    network.load_state_dict({name: seeded_tensor(name, value.shape) for name, value in network.state_dict().items()})
    return network.freeze()


@pytest.fixture
def golden():
    """Results of the reference code for the same weights."""
    return lambda case: dict(np.load(GOLDEN / f"{case}.npz"))


@pytest.fixture
def compvis_folder(tmp_path):
    """Write a checkpoint folder of the reference code; `change` edits the state dict, `edit` the configuration."""

    def write(case, change=None, edit=None):
        state = compvis_state(case)
        if change is not None:
            change(state)
        folder = tmp_path / case
        folder.mkdir()
        torch.save({"state_dict": state, "epoch": 3, "optimizer_states": [{"state": {}}]}, folder / "model.ckpt")
        text = (GOLDEN / f"{case}.yaml").read_text()
        (folder / "config.yaml").write_text(text if edit is None else edit(text))
        return folder

    return write
