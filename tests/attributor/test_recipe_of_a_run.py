"""What an attributor chooses by itself: network by image size, scale of its input; and files of before it did."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from attributor_runs import write_config

import evaluate
import train
from datamodules import GMDataModule


def test_the_input_is_scaled_by_the_training_images(trained):
    """The raw control: mean and deviation of the pixels of the training split, computed here from the files."""
    state = torch.load(trained.checkpoint, weights_only=True)["state_dict"]
    settings = yaml.safe_load(trained.config.read_text())["data"]["init_args"]
    data = GMDataModule(**settings)
    data.setup()
    pixels = torch.stack([item["image"] for item in data.images("train")]).double() / 255
    torch.testing.assert_close(
        state["networks.networks.raw_0.input_mean"].double(), pixels.mean(dim=(0, 2, 3)), rtol=1e-5, atol=0
    )
    assert (state["networks.networks.main.input_std"] < state["networks.networks.raw_0.input_std"]).all()


def test_a_checkpoint_of_before_inputs_were_scaled_is_read_as_it_was_trained(trained, tmp_path):
    saved = torch.load(trained.checkpoint, weights_only=True)
    for name in [name for name in saved["state_dict"] if name.endswith((".input_mean", ".input_std"))]:
        del saved["state_dict"][name]
    del saved["attributor"]["networks"]
    torch.save(saved, tmp_path / "old.ckpt")
    run = tmp_path / "run"
    evaluate.main(
        ["test", "--config", str(trained.config), "--ckpt_path", str(tmp_path / "old.ckpt"), "--run_dir", str(run)]
    )
    found = json.loads((run / "metrics.json").read_text())["test/accuracy"]
    assert found["n"] == 40  # it answers; without scales the network of this run answers worse
    assert found["value"] != pytest.approx(trained.metrics["test/accuracy"])


def test_a_run_of_before_settings_were_grouped_is_tested_and_goes_on(trained, tmp_path):
    """Its checkpoint and its config hold `view` and the settings of the manifold side by side."""

    def flat(settings):
        manifold = settings.pop("manifold")
        names = {"manifold_dir": "dir", "search_memory_mib": "search_memory_mib", "carry_manifold_mib": "carry_mib"}
        return {
            "view": settings.pop("representation"),
            **settings,
            **{old: manifold[new] for old, new in names.items()},
        }

    saved = torch.load(trained.checkpoint, weights_only=True)
    saved["hyper_parameters"] = flat(saved["hyper_parameters"])
    del saved["attributor"]["representations"], saved["attributor"]["identity"]
    config = yaml.safe_load((trained.run / "config.yaml").read_text())
    config["model"]["init_args"] = flat(config["model"]["init_args"])
    old = tmp_path / "old"
    (old / "checkpoints").mkdir(parents=True)
    torch.save(saved, old / "checkpoints" / "last.ckpt")
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    tested = evaluate.main(["test", "--ckpt_path", str(old), "--run_dir", str(tmp_path / "tested")])
    assert tested == {name: value for name, value in trained.metrics.items() if name.startswith("test/")}
    resume = ["--ckpt_path", "last", "--run_dir", str(old), "--trainer.max_epochs", "7", "--test_after_fit", "false"]
    with pytest.raises(ValueError, match="representation artifact in the checkpoint"):
        train.main(["--config", str(old / "config.yaml"), *resume, "--model.init_args.representation", "raw"])
    train.main(["--config", str(old / "config.yaml"), *resume])
    assert torch.load(old / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 6


def test_an_attributor_that_says_nothing_of_its_network_trains_the_one_of_the_size(tmp_path, gm_root, monkeypatch):
    unnamed = {"network": "auto", "stem": "auto", "learning_rate": None, "flip": True, "controls": ["raw"]}
    config = write_config(tmp_path, gm_root, model=unnamed)
    run = tmp_path / "run"
    train.main(["--config", str(config), "--run_dir", str(run), "--trainer.max_epochs", "1"])
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["attributor"]["networks"] == {"main": ["small_cnn", "imagenet"], "control": ["small_cnn", "imagenet"]}
    sizes = {
        part: sum(v.numel() for name, v in saved["state_dict"].items() if f"networks.networks.{part}." in name)
        for part in ("main", "raw_0")
    }
    assert sizes["main"] == sizes["raw_0"]
    assert {group["initial_lr"] for group in saved["optimizer_states"][0]["param_groups"]} == {3e-3}
    # the network that was chosen stays, even where the rule would choose another one
    monkeypatch.setattr(
        "lightning_modules.attributor.choose_networks",
        lambda *_: dict.fromkeys(("main", "control"), ("resnet18", "small")),
    )
    again = evaluate.main(["test", "--ckpt_path", str(run), "--run_dir", str(tmp_path / "again")])
    first = json.loads((run / "metrics.json").read_text())["test/accuracy"]["value"]
    assert again["test/accuracy"] == pytest.approx(first)
