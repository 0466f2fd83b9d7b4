"""Training an attributor through the command line: what it learns, what it leaves, how it goes on."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from attributor_runs import PowerCutError, main_weights, write_config

import train
from lightning_modules.attributor import Attributor


def test_it_learns_far_above_chance(trained):
    accuracy = json.loads((trained.run / "metrics.json").read_text())["test/accuracy"]
    assert accuracy["low"] > 0.4  # four sources: chance is 0.25
    assert trained.metrics["test/fdr"] > 1


def test_the_run_folder_holds_everything(trained):
    for name in ("config.yaml", "provenance.json", "metrics.json", "rows.jsonl", "report.html"):
        assert (trained.run / name).stat().st_size > 0
    for name in ("confusion", "recall", "artifacts", "tsne", "controls"):
        assert (trained.run / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert yaml.safe_load((trained.run / "config.yaml").read_text())["seed_everything"] == 0


def test_metrics_have_interval_and_n_and_agree_with_the_rows(trained):
    metrics = json.loads((trained.run / "metrics.json").read_text())
    rows = [json.loads(line) for line in (trained.run / "rows.jsonl").read_text().splitlines()]
    accuracy = metrics["test/accuracy"]
    right = sum(row["source"] == row["predicted"] for row in rows)
    assert accuracy["n"] == len(rows) == 40
    assert accuracy["value"] == right / len(rows) == pytest.approx(trained.metrics["test/accuracy"])
    assert accuracy["low"] < accuracy["value"] < accuracy["high"] or accuracy["value"] in (0, 1)
    assert metrics["test/control/raw/accuracy"]["n"] == 2
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert max(row["probabilities"], key=row["probabilities"].get) == row["predicted"]
        assert row["distance"] > 0


def test_the_checkpoint_holds_tensors_and_plain_values_only(trained):
    saved = torch.load(trained.checkpoint, weights_only=True)
    assert saved["attributor"]["sources"] == ["gan-grid", "real-fashion", "score-noise", "vae-blur"]
    assert all(
        isinstance(value, (int, float, str, bool, list, tuple, type(None)))
        for value in saved["hyper_parameters"].values()
    )


def test_controls_change_nothing_in_the_attributor(trained, tmp_path, gm_root):
    config = write_config(tmp_path, gm_root, model={"controls": []})
    train.main(["--config", str(config), "--run_dir", str(tmp_path / "run"), "--test_after_fit", "false"])
    alone, together = main_weights(tmp_path / "run" / "checkpoints" / "last.ckpt"), main_weights(trained.checkpoint)
    assert alone.keys() == together.keys()
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def test_a_stopped_training_goes_on_where_it_was(trained, tmp_path, gm_root):
    """Stopped in its fifth epoch and resumed, it ends in the weights of six epochs in one go."""
    config = write_config(tmp_path, gm_root, model={"controls": []})
    run = ["--config", str(config), "--run_dir", str(tmp_path / "run"), "--test_after_fit", "false"]
    with pytest.raises(PowerCutError):
        train.main([*run, "--trainer.callbacks", "attributor_runs.PowerCut", "--trainer.callbacks.epoch", "4"])
    stopped = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert stopped["epoch"] == 3
    train.main([*run, "--ckpt_path", "last"])
    resumed, straight = main_weights(tmp_path / "run" / "checkpoints" / "last.ckpt"), main_weights(trained.checkpoint)
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_seed_is_that_of_the_experiment(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert Attributor().hparams["model_seed"] == 7
    assert Attributor(model_seed=3).hparams["model_seed"] == 3
