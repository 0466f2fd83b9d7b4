"""Resumed trainings of small generators: what they use of what is asked for, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import train

CONFIGS = Path(__file__).parents[2] / "configs" / "zoo"
SHORT = ["--trainer.limit_train_batches=2", "--trainer.enable_progress_bar=false", "--trainer.logger=false",
         "--trainer.enable_model_summary=false", "--data.init_args.name=fashion_sample"]  # fmt: skip


def command(name: str, folder: Path) -> list[str]:
    return ["--config", str(CONFIGS / f"{name}.yaml"), "--run_dir", str(folder), *SHORT]


def test_a_generators_training_refuses_other_weights_of_its_loss_and_takes_more_epochs(tmp_path):
    begun = command("beta_vae", tmp_path / "run")
    train.main([*begun, "--trainer.max_epochs=1"])
    resumed = [*begun, "--trainer.max_epochs=2", "--ckpt_path=last"]
    with pytest.raises(ValueError, match=r"found model.init_args.beta 2.0 in the checkpoint, asked for 3.0"):
        train.main([*resumed, "--model.init_args.beta=3"])
    with pytest.raises(ValueError, match=r"found data.init_args.name fashion_sample .*, asked for fashion;"):
        train.main([*resumed, "--data.init_args.name=fashion"])
    train.main([*resumed, "--data.init_args.batch_size=32"])  # no schedule counts its steps
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


def test_a_schedule_of_fixed_length_refuses_more_epochs(tmp_path):
    begun = command("fashion_classifier", tmp_path / "run")
    train.main([*begun, "--trainer.max_epochs=1"])
    with pytest.raises(ValueError, match=r"trainer.max_epochs 1 and a learning rate laid out for its 2 steps.* for 2"):
        train.main([*begun, "--trainer.max_epochs=2", "--ckpt_path=last"])


def test_another_kind_of_training_is_named(tmp_path):
    train.main([*command("beta_vae", tmp_path / "run"), "--trainer.max_epochs=1"])
    other = ["--ckpt_path", str(tmp_path / "run"), "--trainer.max_epochs=2"]
    with pytest.raises(ValueError, match=r"found a training of model .*BetaVAE, asked for .*DCGAN"):
        train.main([*command("dcgan", tmp_path / "run"), *other])
