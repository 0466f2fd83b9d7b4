"""Where standard error is no terminal, a training says how far it is in lines, not in thousands of bars."""

from __future__ import annotations

import sys

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_modules.callbacks import log_progress
from lightning_modules.callbacks.log_progress import LogProgress
from lightning_modules.cli.framework import FrameworkCLI

CONFIG = """
model: {class_path: lightning_modules.attributor.Attributor}
data: {class_path: datamodules.GMDataModule, init_args: {root: nowhere}}
"""


class Scored(BoringModel):
    """Shows a number."""

    def training_step(self, batch, batch_idx):
        found = super().training_step(batch, batch_idx)
        self.log("score", 0.5, prog_bar=True)
        return found


@pytest.fixture
def trainer(tmp_path):
    return pl.Trainer(
        default_root_dir=tmp_path, callbacks=[LogProgress()], logger=False, enable_progress_bar=False, max_epochs=2,
        enable_model_summary=False, enable_checkpointing=False, accelerator="cpu", limit_train_batches=4,
        limit_val_batches=0, limit_test_batches=3,
    )  # fmt: skip


@pytest.mark.parametrize("pause", [-1.0, 1000.0])
def test_lines_of_a_training_come_now_and_then(trainer, monkeypatch, capsys, pause):
    for name in ("DELAY", "INTERVAL"):
        monkeypatch.setattr(log_progress, name, pause)
    trainer.fit(Scored())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training:")]
    if pause > 0:
        assert lines == []
        return
    assert len(lines) == 8
    assert lines[5].startswith("training: epoch 2 of 2, batch 2 of 4, 0 s left; score 0.5")
    assert "left" not in lines[7]  # the last batch


def test_lines_of_a_test(trainer, monkeypatch, capsys):
    for name in ("DELAY", "INTERVAL"):
        monkeypatch.setattr(f"lightning_modules.common.progress.{name}", -1.0)
    trainer.test(Scored(), verbose=False)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("testing:")]
    assert lines[0].startswith("testing: 1 of 3 batches")
    assert len(lines) == 3


def test_lines_of_a_prediction(trainer, monkeypatch, capsys):
    for name in ("DELAY", "INTERVAL"):
        monkeypatch.setattr(f"lightning_modules.common.progress.{name}", -1.0)
    trainer.predict(Scored(), Scored().test_dataloader())
    assert "predicting: 1 of 64 batches" in capsys.readouterr().err


class Alternating(BoringModel):
    """Steps two optimizers a batch by itself, as a GAN does."""

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(self.layer(batch)))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.layer.parameters(), lr=0.1) for _ in range(2)]


def test_time_left_counts_batches_and_not_steps_of_optimizers(trainer, monkeypatch, capsys):
    for name in ("DELAY", "INTERVAL"):
        monkeypatch.setattr(log_progress, name, -1.0)
    model = Alternating()
    model.automatic_optimization = False
    trainer.fit(model)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training:")]
    assert ["left" in line for line in lines] == [True] * 7 + [False]


def test_a_bar_of_a_configs_own_stays(tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG + "trainer: {callbacks: [{class_path: pytorch_lightning.callbacks.TQDMProgressBar}]}\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    found = FrameworkCLI([f"--config={config}", f"--run_dir={tmp_path / 'run'}"], "train").trainer.callbacks
    assert sum(isinstance(each, ProgressBar) for each in found) == 1
    assert not any(isinstance(each, LogProgress) for each in found)


@pytest.mark.parametrize(
    ("terminal", "asked", "bars", "lines"),
    [(False, None, 0, 1), (True, None, 1, 0), (False, "true", 1, 0), (False, "false", 0, 0)],
)
def test_a_bar_is_for_terminals_or_where_it_is_asked_for(tmp_path, monkeypatch, terminal, asked, bars, lines):
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)  # where Lightning's bars go
    extra = [] if asked is None else [f"--trainer.enable_progress_bar={asked}"]
    cli = FrameworkCLI([f"--config={config}", f"--run_dir={tmp_path / 'run'}", *extra], "train")
    found = cli.trainer.callbacks
    assert sum(isinstance(each, ProgressBar) for each in found) == bars
    assert sum(isinstance(each, LogProgress) for each in found) == lines
    assert cli.config["trainer"]["enable_progress_bar"] == {None: None, "true": True, "false": False}[asked]
