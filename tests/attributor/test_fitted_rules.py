"""An attributor whose networks are rules: fitted once, before the first step, to all training images."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from attributor_runs import write_config
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import evaluate
import train
from datamodules import GMDataModule
from datamodules.images.indexed_images import PlannedImages
from lightning_modules.networks import source_network
from lightning_modules.representations.registry import Inputs, build_representation

PLAIN = {"stem": "auto", "learning_rate": None, "controls": []}
KNN = {**PLAIN, "representation": "saturation", "network": "knn"}


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory, gm_root):
    """A finished run of a config that asks for six epochs."""
    folder = tmp_path_factory.mktemp("neighbours")
    config = write_config(folder, gm_root, model=KNN)
    metrics = train.main(["--config", str(config), "--run_dir", str(folder / "run")])
    return config, folder / "run", metrics


def test_it_answers_as_scikit_learn_does_on_all_training_images(neighbours):
    config, run, _ = neighbours
    data = GMDataModule(**yaml.safe_load(config.read_text())["data"]["init_args"])
    data.setup()
    features, labels = {}, {}
    for split in ("train", "test"):
        images = data.images(split)
        pixels = torch.stack([item["image"] for item in images]).float() / 255
        features[split] = build_representation("saturation")(Inputs(pixels, pixels)).double().numpy()
        labels[split] = images.labels
    scaler = StandardScaler().fit(features["train"])
    reference = KNeighborsClassifier(5).fit(scaler.transform(features["train"]), labels["train"])
    named = reference.predict(scaler.transform(features["test"]))
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    found = [data.sources.index(row["predicted"]) for row in sorted(rows, key=lambda row: row["index"])]
    assert np.mean(np.array(found) == named) >= 0.95  # neighbours at equal distances may change places


def test_a_fit_is_one_epoch_of_one_step_that_is_validated_and_logged(neighbours):
    _, run, metrics = neighbours
    saved = weights(run)
    assert (saved["epoch"], saved["global_step"]) == (0, 1)
    training = json.loads((run / "provenance.json").read_text())["training"]
    assert (training["epochs"], training["max_epochs"], training["stopped"]) == (1, 1, False)
    assert {"train/accuracy", "train/loss", "val/accuracy", "test/accuracy", "test/fdr"} <= set(metrics)
    assert len(saved["state_dict"]["networks.networks.main.known"]) == 96  # every training image
    assert "Unfinished" not in (run / "report.html").read_text()


def test_the_checkpoint_alone_gives_the_same_numbers(neighbours, tmp_path, gm_root):
    _, run, metrics = neighbours
    again = evaluate.main(["test", "--ckpt_path", str(run), "--run_dir", str(tmp_path / "again")])
    assert again == {name: value for name, value in metrics.items() if name.startswith("test/")}
    image = str(gm_root / "gan-grid" / "00000.png")
    out = evaluate.main(["predict", "--ckpt_path", str(run), "--images", image, "--run_dir", str(tmp_path / "p")])
    assert sum(json.loads(out.read_text())["probabilities"].values()) == pytest.approx(1)


def test_a_finished_fit_has_no_step_left(neighbours, tmp_path):
    config, run, _ = neighbours
    before = weights(run)["state_dict"]
    train.main(["--config", str(config), "--run_dir", str(run), "--ckpt_path", "last", "--trainer.max_epochs", "1"])
    assert all(torch.equal(value, before[name]) for name, value in weights(run)["state_dict"].items())


def test_two_processes_fit_the_same_rule(neighbours, tmp_path):
    config, run, _ = neighbours
    train.main(["--config", str(config), "--run_dir", str(tmp_path), "--trainer.devices", "2",
                "--trainer.strategy", "ddp_fork"])  # fmt: skip
    one, two = weights(run), weights(tmp_path)
    assert two["global_step"] == 1
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())
    assert json.loads((run / "metrics.json").read_text()) == json.loads((tmp_path / "metrics.json").read_text())


def test_images_are_read_once_for_all_rules(tmp_path, gm_root, monkeypatch):
    """The attributor and its control are fitted in one pass; a batch is read again for the one step there is."""
    read = Counter()
    get = PlannedImages.__getitem__

    def counted(self, index):
        read[len(self)] += 1
        return get(self, index)

    monkeypatch.setattr(PlannedImages, "__getitem__", counted)
    controls = [{"name": "vector", "embedding": "residual"}]
    model = {**PLAIN, "representation": "radial_spectrum", "network": "svm", "controls": controls, "control_seeds": 3}
    config = write_config(tmp_path, gm_root, model=model)
    train.main(["--config", str(config), "--run_dir", str(tmp_path / "run"), "--test_after_fit", "false",
                "--trainer.num_sanity_val_steps", "0"])  # fmt: skip
    assert read[96] == 96 + 8 + 96  # once more at the end, for the space of their features
    state = weights(tmp_path / "run")["state_dict"]
    assert state["networks.networks.vector_residual_0.coefficients"].shape == (4, 3 * 32 * 32)
    assert not any("vector_residual_1" in name for name in state)  # three fits would be the same three times


def test_rules_see_attacked_images_where_training_images_are_attacked(tmp_path, gm_root):
    found = []
    for attack in (None, "noise_0.1"):
        augmentation = {"attack": attack, "probability": 1.0}
        config = write_config(tmp_path, gm_root, model={**KNN, "augmentation": augmentation})
        run = tmp_path / str(attack)
        train.main(["--config", str(config), "--run_dir", str(run), "--test_after_fit", "false"])
        found.append(weights(run)["state_dict"]["networks.networks.main.input_mean"])
    assert float(found[1][4]) < 0.8 * float(found[0][4])  # the mean share of black pixels


def test_a_rule_may_have_controls_that_are_trained(tmp_path, gm_root):
    """Then it trains as long as they do; under DDP a parameter without a gradient would be an error."""
    model = {**PLAIN, "representation": "saturation", "network": "logistic", "control_network": "linear"}
    config = write_config(tmp_path, gm_root, model={**model, "controls": ["radial_spectrum"]})
    train.main(["--config", str(config), "--run_dir", str(tmp_path / "run"), "--trainer.max_epochs", "2",
                "--trainer.devices", "2", "--trainer.strategy", "ddp_fork", "--test_after_fit", "false"])  # fmt: skip
    assert weights(tmp_path / "run")["epoch"] == 1


def test_a_rule_takes_vectors_alone(tmp_path, gm_root):
    config = write_config(tmp_path, gm_root, model={**PLAIN, "representation": "raw", "network": "logistic"})
    with pytest.raises(ValueError, match="found network logistic for images"):
        train.main(["--config", str(config), "--run_dir", str(tmp_path / "run")])


@pytest.mark.slow
def test_a_plateau_ends_the_training(tmp_path, gm_root, monkeypatch):
    monkeypatch.setitem(source_network.ANOTHER_LAST_LAYER, "wang2020", "resnet10t")
    config = write_config(tmp_path, gm_root, model={**PLAIN, "representation": "raw", "network": "wang2020"})
    command = ["--config", str(config), "--test_after_fit", "false", "--trainer.max_epochs", "2"]
    metrics = train.main([*command, "--run_dir", str(tmp_path / "run")])
    whole = weights(tmp_path / "run")
    assert (whole["epoch"], whole["training"]["stopped"]) == (1, False)
    assert 0 < whole["lr_schedulers"][0]["best"] <= 1
    assert 0 < metrics["val/accuracy"] <= 1
    monkeypatch.setattr("lightning_modules.networks.recipes.LEAST_RATE", 1.0)  # it has levelled off from the start
    train.main([*command, "--run_dir", str(tmp_path / "stopped")])
    stopped = weights(tmp_path / "stopped")
    assert (stopped["epoch"], stopped["training"]["stopped"]) == (0, True)
