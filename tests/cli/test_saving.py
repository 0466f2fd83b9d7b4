"""Checkpoints are whole or those of before, and a resumed training has one log."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy

from lightning_modules.cli.framework import FrameworkCLI
from lightning_modules.cli.run_record import last_checkpoint
from lightning_modules.cli.saving import (
    AtomicCheckpoints,
    ContinuedCSVLogger,
    clear_partials,
    logged_steps,
    save_atomically,
)
from lightning_modules.common.shipped import TRAINED
from lightning_modules.reporting.findings import TrainingState

ROOT = Path(__file__).parents[2]
SAVING = """
import sys, torch
from pathlib import Path
from lightning_modules.cli.saving import AtomicCheckpoints
target, writer = Path(sys.argv[1]), AtomicCheckpoints()
writer.save_checkpoint({"number": 0, "weights": torch.zeros(5_000_000)}, target)
for number in range(1, 10_000):
    writer.save_checkpoint({"number": number, "weights": torch.full((5_000_000,), number)}, target)
"""


def test_a_process_killed_in_the_middle_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    target = tmp_path / "checkpoints" / "last.ckpt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SAVING, str(target)], env=environment)
    until = time.monotonic() + 60
    while time.monotonic() < until:  # until it is stopped in the middle of one
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        halves = [file for file in target.parent.glob(".last.ckpt.*.partial") if file.stat().st_size > 1_000_000]
        if target.exists() and halves:
            break
        process.send_signal(signal.SIGCONT)
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(target.parent.glob(".last.ckpt.*.partial"))
    saved = torch.load(target, weights_only=True)
    assert (saved["weights"] == saved["number"]).all()
    clear_partials(tmp_path)
    assert [file.name for file in target.parent.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(Path(f"/proc/self/fd/{descriptor}").resolve()))
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append("renamed"), rename(self, to)))
    AtomicCheckpoints().save_checkpoint({"a": torch.zeros(3)}, tmp_path / "last.ckpt")
    file, renamed, folder = done
    assert file.name.endswith(".partial")
    assert (renamed, folder) == ("renamed", tmp_path)


def test_a_large_checkpoint_is_not_held_twice(tmp_path):
    weights = torch.zeros(10_000_000)
    tracemalloc.start()
    AtomicCheckpoints().save_checkpoint({"weights": weights}, tmp_path / "last.ckpt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000  # of 40 MB; Lightning's own copies it


@pytest.mark.parametrize(
    "strategy", [SingleDeviceStrategy("cpu"), DDPStrategy(), FSDPStrategy()], ids=["single", "ddp", "fsdp"]
)
def test_every_strategy_that_writes_whole_files_writes_them_so(strategy):
    trainer = type("Trainer", (), {"strategy": strategy})()
    save_atomically(trainer)
    assert type(strategy.checkpoint_io) is AtomicCheckpoints


def test_a_writer_that_a_config_names_stays():
    own = AsyncCheckpointIO(checkpoint_io=TorchCheckpointIO())
    trainer = type("Trainer", (), {"strategy": SingleDeviceStrategy("cpu", checkpoint_io=own)})()
    save_atomically(trainer)
    assert trainer.strategy.checkpoint_io is own


class Logged(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("train/loss", loss, on_step=True, on_epoch=False)
        self.log("train/step", float(self.global_step))
        if self.current_epoch == self.stops_at and batch_idx == 1:
            raise RuntimeError("power cut")
        return loss

    def on_train_epoch_end(self):
        if self.current_epoch >= self.new_from:
            self.log("new", 1.0)  # a column that the earlier part has not


def trained(folder: Path, epochs: int, ckpt_path: Path | None = None, stops_at: int = -1, new_from: int = 99) -> None:
    module = Logged()
    module.stops_at, module.new_from = stops_at, new_from
    step = 0 if ckpt_path is None else logged_steps(torch.load(ckpt_path, weights_only=True))
    trainer = pl.Trainer(
        max_epochs=epochs, limit_train_batches=4, limit_val_batches=0, log_every_n_steps=1, accelerator="cpu",
        default_root_dir=folder, callbacks=[last_checkpoint(folder, 1)], logger=ContinuedCSVLogger(folder, step),
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ckpt_path=ckpt_path, weights_only=True)


def test_a_resumed_training_keeps_the_rows_up_to_where_it_goes_on(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        trained(tmp_path, epochs=4, stops_at=2)
    log = tmp_path / "logs" / "metrics.csv"
    assert [row["step"] for row in rows_of(log)][-1] == "8"  # of the step that is done again
    earlier = [row for row in rows_of(log) if int(row["step"]) < 8]
    with log.open("a") as file:
        file.write("9,2,0.1")  # half a row, of a kill
    trained(tmp_path, epochs=4, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", new_from=3)
    rows = rows_of(log)
    assert [row["step"] for row in rows if row["train/loss"]] == [str(step) for step in range(16)]
    assert [{key: value for key, value in row.items() if key != "new"} for row in rows[: len(earlier)]] == earlier
    assert [row["new"] for row in rows if row["new"]] == ["1.0"]


def test_a_new_training_in_the_same_folder_begins_a_new_log(tmp_path, recwarn):
    trained(tmp_path, epochs=2)
    trained(tmp_path, epochs=1)
    assert [row["step"] for row in rows_of(tmp_path / "logs" / "metrics.csv") if row["train/loss"]] == list("0123")
    assert not [each for each in recwarn if "will be deleted" in str(each.message)]


def test_a_command_that_resumes_a_training_continues_its_log_and_clears_what_a_kill_left(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/last.ckpt", "fingerprint.safetensors"):
        (folder / name).write_bytes((TRAINED / "ldm" / name).read_bytes())
    (folder / "checkpoints" / ".last.ckpt.7-ab.partial").write_bytes(b"half")
    args = ["--config", str(folder / "config.yaml"), "--ckpt_path", str(folder), "--trainer.accelerator", "cpu",
            "--model.init_args.training.learning_rate", "7e-4"]  # fmt: skip
    cli = FrameworkCLI(args, purpose="train")
    steps = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert [each.from_step for each in cli.trainer.loggers if isinstance(each, ContinuedCSVLogger)] == [steps]
    assert type(cli.trainer.strategy.checkpoint_io) is AtomicCheckpoints
    assert [file.name for file in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    for epochs, told in (
        (3, f"stopped; this goes on with the training after epoch 3 of 9: python train.py {shlex.join(args[:2])} "),
        (9, f"stopped; the training is finished, and this tests it: python evaluate.py test --ckpt_path {folder}"),
    ):
        state = TrainingState(epochs, 9, 100 * epochs, -1, False)
        torch.save(saved | {"training": state.to_json()}, folder / "checkpoints" / "last.ckpt")
        assert cli.how_to_go_on().startswith(told)
        assert cli.how_to_go_on().endswith(f" --ckpt_path {folder}")
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert "nothing is saved yet" in cli.how_to_go_on()


def rows_of(log: Path) -> list[dict[str, str]]:
    import csv

    with log.open(newline="") as file:
        return list(csv.DictReader(file))
