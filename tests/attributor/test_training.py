"""Training an attributor through the command line: what it learns, what it leaves, how it goes on."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from attributor_runs import PowerCutError, main_weights, write_config

import evaluate
import train
from lightning_modules.attributor import Attributor
from lightning_modules.metrics.intervals import proportion


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
    control = metrics["test/control/raw/accuracy"]
    assert (control["n"], control["seeds"], len(control["values"])) == (40, 2, 2)
    assert control["low"] < control["value"] < control["high"]
    assert metrics["test/fdr"]["n_per_half"] == 5
    null = metrics["test/fdr_null"]
    assert null["low"] < null["value"] < null["high"]
    for row in rows:
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert max(row["probabilities"], key=row["probabilities"].get) == row["predicted"]
        assert row["distance"] > 0


def test_trivial_features_stand_beside_the_accuracy(trained):
    """Fitted on the training images, scored on the very images of the test; noise and blur are no secret to them."""
    metrics = json.loads((trained.run / "metrics.json").read_text())
    found = {name: entry for name, entry in metrics.items() if name.startswith("test/trivial/")}
    pixels = ("extreme_values", "colour_histogram", "spectrum", "together")
    assert set(found) == {f"test/trivial/{name}/accuracy" for name in (*pixels, "file_attributes")}
    for name in pixels:
        entry = found[f"test/trivial/{name}/accuracy"]
        assert (entry["n"], entry["fitted_on"], entry["chance"]) == (40, "96 training images", 0.25)
        assert entry["low"] < entry["value"] < entry["high"]
    assert found["test/trivial/spectrum/accuracy"]["value"] > 0.7
    assert found["test/trivial/file_attributes/accuracy"]["value"] == 0.25
    page = (trained.run / "report.html").read_text()
    for shown in (
        "What trivial features reach",
        "mean spectrum, 17 rings",
        "file format, size, mode",
        "labels shuffled",
    ):
        assert shown in page
    best = max(found.values(), key=lambda entry: entry["value"])["value"]
    assert ("A trivial feature" in page) == (best >= metrics["test/accuracy_macro"]["low"])


def test_one_control_seed_has_an_interval_over_images(tmp_path, gm_root):
    config = write_config(tmp_path, gm_root, model={"controls": ["raw"], "control_seeds": 1})
    train.main(["--config", str(config), "--run_dir", str(tmp_path / "run"), "--trainer.max_epochs", "1"])
    control = json.loads((tmp_path / "run" / "metrics.json").read_text())["test/control/raw/accuracy"]
    assert (control["n"], control["seeds"], control["std"]) == (40, 1, None)
    right = proportion(round(40 * control["value"]), 40)
    assert (control["low"], control["high"]) == (right.low, right.high)
    assert "mean accuracy (95 % over images)" in (tmp_path / "run" / "report.html").read_text()


def test_the_checkpoint_holds_tensors_and_plain_values_only(trained):
    saved = torch.load(trained.checkpoint, weights_only=True)
    assert saved["attributor"]["sources"] == ["gan-grid", "real-fashion", "score-noise", "vae-blur"]
    assert all(
        isinstance(value, (int, float, str, bool, list, tuple, dict, type(None)))
        for value in saved["hyper_parameters"].values()
    )


def test_controls_change_nothing_in_the_attributor(trained, tmp_path, gm_root):
    config = write_config(tmp_path, gm_root, model={"controls": []})
    train.main(["--config", str(config), "--run_dir", str(tmp_path / "run"), "--test_after_fit", "false"])
    alone, together = main_weights(tmp_path / "run" / "checkpoints" / "last.ckpt"), main_weights(trained.checkpoint)
    assert alone.keys() == together.keys()
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def test_a_stopped_training_says_so_and_goes_on_where_it_was(trained, tmp_path, gm_root, capsys):
    """Stopped in its fifth epoch and resumed, it ends in the weights of six epochs in one go."""
    config = write_config(tmp_path, gm_root, model={"controls": []})
    run = ["--config", str(config), "--run_dir", str(tmp_path / "run"), "--test_after_fit", "false"]
    with pytest.raises(PowerCutError):
        train.main([*run, "--trainer.callbacks", "attributor_runs.PowerCut", "--trainer.callbacks.epoch", "4"])
    stopped = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert stopped["epoch"] == 3
    _check_that_it_is_called_unfinished(tmp_path, gm_root, capsys)
    train.main([*run, "--ckpt_path", "last"])
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["training"]["epochs"] == 6
    resumed, straight = main_weights(tmp_path / "run" / "checkpoints" / "last.ckpt"), main_weights(trained.checkpoint)
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def _check_that_it_is_called_unfinished(folder, gm_root, capsys):
    """In the terminal, the provenance and the report of a test, and by a prediction."""
    told = "Unfinished training: the weights are those after epoch 4 of 6."
    tested = folder / "tested"
    mine = ["--trust_classes", "attributor_runs"]  # the config of the run names a callback of the tests
    evaluate.main(["test", "--ckpt_path", str(folder / "run"), "--run_dir", str(tested), *mine])
    assert f"warning: {told}" in capsys.readouterr().out.splitlines()
    assert told in (tested / "report.html").read_text()
    training = json.loads((tested / "provenance.json").read_text())["training"]
    assert (training["epochs"], training["max_epochs"]) == (4, 6)
    image = str(gm_root / "gan-grid" / "00000.png")
    predicted = ["--images", image, "--run_dir", str(folder / "p")]
    evaluate.main(["predict", "--ckpt_path", str(folder / "run"), *predicted, *mine])
    assert f"warning: {told}" in capsys.readouterr().err.splitlines()


def test_a_finished_training_says_how_long_it_was(trained, capsys, tmp_path):
    training = json.loads((trained.run / "provenance.json").read_text())["training"]
    assert training == {"epochs": 6, "max_epochs": 6, "steps": 72, "max_steps": -1, "stopped": False}
    assert "Unfinished" not in (trained.run / "report.html").read_text()
    evaluate.main(["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path)])
    assert json.loads((tmp_path / "provenance.json").read_text())["training"] == training
    printed = capsys.readouterr().out
    assert "Unfinished" not in printed
    for told in ("test/fdr: ", "each distance from 5 images, d = 96, 10 halvings; with labels shuffled ",
                 "best trivial feature ("):  # fmt: skip
        assert told in printed


def test_seed_is_that_of_the_experiment(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert Attributor().hparams["model_seed"] == 7
    assert Attributor(model_seed=3).hparams["model_seed"] == 3
