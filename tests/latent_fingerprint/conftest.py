"""One training of a tiny fingerprint, tested at its end, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_fingerprints import write_config, write_stylegan2

import train


@pytest.fixture(scope="session")
def stylegan2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a tiny StyleGAN2."""
    return write_stylegan2(tmp_path_factory.mktemp("tiny") / "g.safetensors")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, stylegan2: str) -> Path:
    """Folder of a finished run of `train.py`, with its test: read only."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, stylegan2, **{"test.features": "fashion_cnn", "test.perceptual": {"name": "pixels"}})
    train.main(["--config", str(config), "--run_dir", str(folder / "run")])
    return folder / "run"
