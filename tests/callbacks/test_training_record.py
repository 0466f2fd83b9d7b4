"""How far a training had come, as its checkpoints say it and as its own trainer does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_modules.callbacks.training_record import (
    TrainingRecord,
    cost_behind,
    read_training_state,
    training_behind,
)
from lightning_modules.reporting.findings import TrainingState
from lightning_modules.reporting.training_cost import TrainingCost, together


class PowerCutError(RuntimeError):
    pass


class PowerCut(Callback):
    """Stops in the second batch of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, 1):
            raise PowerCutError


class Scored(BoringModel):
    """Logs a value that never improves."""

    def on_train_epoch_end(self) -> None:
        self.log("loss", 1.0)


def trainer_of(folder: Path, *callbacks: Callback, **settings: Any) -> pl.Trainer:
    kept = ModelCheckpoint(dirpath=folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    limits = {"limit_train_batches": 4, "limit_val_batches": 0, "limit_test_batches": 1}
    return pl.Trainer(
        default_root_dir=folder, callbacks=[TrainingRecord(), *callbacks, kept], **quiet, **limits, **settings
    )


def test_a_killed_training_and_its_resumption(tmp_path):
    with pytest.raises(PowerCutError):
        trainer_of(tmp_path, PowerCut(3), max_epochs=5).fit(Scored())
    checkpoint = tmp_path / "last.ckpt"
    state = read_training_state(checkpoint)
    assert state == TrainingState(epochs=3, max_epochs=5, steps=12, max_steps=-1, stopped=False)
    assert state.warning == "Unfinished training: the weights are those after epoch 3 of 5."

    tester = trainer_of(tmp_path / "test", max_epochs=5)
    tester.test(Scored(), ckpt_path=str(checkpoint), weights_only=True, verbose=False)
    assert training_behind(tester) == state

    resumed = trainer_of(tmp_path, max_epochs=5)
    resumed.fit(Scored(), ckpt_path=str(checkpoint), weights_only=True)
    assert training_behind(resumed).epochs == 5  # its own, not that of the file it began with
    resumed.test(Scored(), verbose=False)
    assert training_behind(resumed) == read_training_state(checkpoint)
    assert read_training_state(checkpoint).warning is None


def test_more_epochs_are_asked_of_a_finished_training(tmp_path):
    trainer_of(tmp_path, max_epochs=1).fit(Scored())
    checkpoint = tmp_path / "last.ckpt"
    assert read_training_state(checkpoint).finished
    with pytest.raises(PowerCutError):
        trainer_of(tmp_path, PowerCut(2), max_epochs=3).fit(Scored(), ckpt_path=str(checkpoint), weights_only=True)
    assert read_training_state(checkpoint).progress == "epoch 2 of 3"


def test_early_stopping_finishes_a_training(tmp_path):
    stopping = EarlyStopping("loss", patience=1, check_on_train_epoch_end=True)
    trainer = trainer_of(tmp_path, stopping, max_epochs=9)
    trainer.fit(Scored())
    state = read_training_state(tmp_path / "last.ckpt")
    assert (state.epochs, state.stopped, state.finished, state.warning) == (2, True, True, None)
    assert training_behind(trainer) == state


@pytest.mark.parametrize(("steps", "progress"), [(6, "step 4 of 6"), (4, None)])
def test_a_training_by_steps(tmp_path, steps, progress):
    trainer = trainer_of(tmp_path, PowerCut(1), max_epochs=-1, max_steps=steps)
    if progress is None:
        trainer.fit(Scored())
    else:
        with pytest.raises(PowerCutError):
            trainer.fit(Scored())
    state = read_training_state(tmp_path / "last.ckpt")
    assert state.warning == (f"Unfinished training: the weights are those after {progress}." if progress else None)


def test_a_checkpoint_in_the_middle_of_an_epoch_counts_finished_epochs(tmp_path):
    middle = ModelCheckpoint(dirpath=tmp_path, filename="middle", every_n_train_steps=7, save_top_k=-1)
    trainer_of(tmp_path, middle, max_epochs=2).fit(Scored())
    assert read_training_state(tmp_path / "middle.ckpt").progress == "epoch 1 of 2"


def test_a_checkpoint_that_does_not_say_and_no_training_at_all(tmp_path):
    trainer_of(tmp_path, max_epochs=1).fit(Scored())
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del saved["training"]
    torch.save(saved, tmp_path / "old.ckpt")
    tester = trainer_of(tmp_path / "test")
    tester.test(Scored(), ckpt_path=str(tmp_path / "old.ckpt"), weights_only=True, verbose=False)
    assert training_behind(tester) is None
    untrained = trainer_of(tmp_path / "untrained")
    untrained.test(Scored(), verbose=False)
    assert training_behind(untrained) is None


class Busy(BoringModel):
    """Computes a while in each step, and holds memory that it gives back."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        begun = time.process_time()
        while time.process_time() - begun < 0.02:
            torch.randn(1000).sort()
        return super().training_step(batch, batch_idx)


def test_the_cost_of_a_training_and_of_its_resumption(tmp_path):
    held = torch.ones(64, 2**20, dtype=torch.uint8)  # 64 MiB
    with pytest.raises(PowerCutError):
        trainer_of(tmp_path, PowerCut(1), max_epochs=2).fit(Busy())
    first = cost_of(tmp_path / "last.ckpt")
    assert 4 * 0.02 <= first.processor_seconds < 4
    assert first.wall_seconds >= 4 * 0.02
    assert first.peak_bytes > held.numel()
    assert (first.processes, first.peak_device_bytes) == (1, None)
    trainer = trainer_of(tmp_path, max_epochs=2)
    trainer.fit(Busy(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    both = cost_of(tmp_path / "last.ckpt")
    assert both.processor_seconds >= first.processor_seconds + 4 * 0.02
    assert both.wall_seconds >= first.wall_seconds + 4 * 0.02
    assert cost_behind(trainer) == both


def cost_of(checkpoint: Path) -> TrainingCost:
    tester = trainer_of(checkpoint.parent / "test")
    tester.test(BoringModel(), ckpt_path=str(checkpoint), weights_only=True, verbose=False)
    found = cost_behind(tester)
    assert found is not None
    return found


def test_the_cost_of_several_processes():
    shares = [TrainingCost(10.0, 8.0, 100, None, 1), TrainingCost(11.0, 9.0, 90, 7, 1)]
    assert together(shares) == TrainingCost(11.0, 17.0, 100, 7, 2)
    assert TrainingCost.from_json(shares[1].to_json()) == shares[1]
    assert TrainingCost.from_json({"wall_seconds": 1.0}) is None
    assert shares[0].after(shares[1]) == TrainingCost(21.0, 17.0, 100, 7, 1)


def test_workers_that_read_images_count(tmp_path):
    class Slow(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            begun = time.process_time()
            while time.process_time() - begun < 0.1:
                torch.randn(1000).sort()
            return torch.randn(32)

    loader: Any = torch.utils.data.DataLoader(Slow(), num_workers=1, persistent_workers=True)
    trainer = trainer_of(tmp_path, max_epochs=1)
    trainer.fit(BoringModel(), train_dataloaders=loader)
    found = cost_behind(trainer)
    assert found is not None
    assert found.processor_seconds >= 0.35  # those of the worker, which is alive still
