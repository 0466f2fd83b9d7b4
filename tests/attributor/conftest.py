"""One training of a small attributor, shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from attributor_runs import write_config

import train


@dataclass
class Trained:
    """A finished run: its config, its folder, the folder of all runs and what `train.main` returned."""

    config: Path
    run: Path
    runs: Path
    metrics: dict[str, float]

    @property
    def checkpoint(self) -> str:
        return str(self.run / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, gm_root: Path) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(folder, gm_root)
    run = folder / "runs" / "small"
    metrics = train.main(["--config", str(config), "--run_dir", str(run)])
    return Trained(config, run, folder / "runs", metrics)
