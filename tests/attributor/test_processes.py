"""Training on two processes, and a run with Weights & Biases on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from attributor_runs import main_weights, write_config

import evaluate
import train


def test_two_processes_train_one_attributor(tmp_path, gm_root):
    """It learns, and each process has done its share: half the steps of one process at the same batch size."""
    config = write_config(tmp_path, gm_root, model={"controls": []})
    run = tmp_path / "run"
    train.main(["--config", str(config), "--run_dir", str(run), "--trainer.devices", "2",
                "--trainer.strategy", "ddp_fork", "--trainer.max_epochs", "2"])  # fmt: skip
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2 * (96 // 2 // 8)
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    assert len({row["file"] for row in rows}) == len(rows) == 40
    assert all(value.isfinite().all() for value in main_weights(run / "checkpoints" / "last.ckpt").values())
    # what was tested are these weights, though the processes that trained them are gone
    again = evaluate.main(["test", "--ckpt_path", str(run), "--run_dir", str(tmp_path / "again")])
    metrics = json.loads((run / "metrics.json").read_text())
    assert again["test/cross_entropy"] == pytest.approx(metrics["test/cross_entropy"]["value"])


def test_wandb_is_offline_unless_asked_and_gets_metrics_figures_and_report(trained, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    evaluate.main(["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path), "--trainer.logger", "null"])
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    (record,) = offline.glob("run-*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(record)]
    summary = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout
    metrics = (
        "test/accuracy",
        "test/fdr",
        "test/fdr_null",
        "test/control/raw/accuracy",
        "test/trivial/spectrum/accuracy",
    )
    for metric in (*metrics, *(f"{name}/low" for name in metrics), "training/epochs", "training/max_epochs"):
        assert f'"{metric}"' in summary
    media = {path.name.split("_")[0] for path in (offline / "files" / "media" / "images" / "test").iterdir()}
    assert {"confusion", "artifacts", "tsne"} <= media
    assert list((offline / "files" / "media" / "html" / "test").glob("report_*.html"))
    assert (tmp_path / "logs" / "metrics.csv").is_file()


def test_compare_puts_seeds_in_one_row(trained, tmp_path, capsys):
    other = tmp_path / "seed-1"
    evaluate.main(["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(other), "--seed_everything", "1"])
    capsys.readouterr()
    out = tmp_path / "comparison"
    evaluate.main(["compare", str(trained.run), str(other), "--metrics", "test/accuracy", "--out", str(out)])
    table = capsys.readouterr().out
    assert "| 2 |" in table
    for name in ("comparison.md", "comparison.csv", "comparison.html"):
        assert (out / name).stat().st_size > 0


def test_compare_refuses_folders_that_are_no_runs(tmp_path):
    with pytest.raises(SystemExit, match=str(tmp_path)):
        evaluate.main(["compare", str(tmp_path)])


def test_another_seed_trains_with_loggers_on(tmp_path, gm_root):
    """Loggers merge the settings of module and data set: the experiment's seed and the split's are two settings."""
    config = write_config(tmp_path, gm_root, model={"controls": []})
    run = tmp_path / "run"
    train.main(["--config", str(config), "--run_dir", str(run), "--trainer.logger", "null", "--seed_everything", "1",
                "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2",
                "--test_after_fit", "false"])  # fmt: skip
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["model_seed"] == 1
    assert saved["datamodule_hyper_parameters"]["seed"] == 0
