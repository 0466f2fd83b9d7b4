"""What is asked for beside the checkpoint of a fingerprint: used, or refused by name before anything starts."""

from __future__ import annotations

import shutil

import pytest
import torch
import yaml
from tiny_fingerprints import write_stylegan2

import train
from lightning_modules.cli.framework import FrameworkCLI
from lightning_modules.fingerprints.fingerprint import FingerprintError, write_fingerprint
from lightning_modules.fingerprints.settings import MOVED
from lightning_modules.latent_fingerprint import LatentFingerprint


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            ["--model.init_args.training.learning_rate", "0.5"],
            "found model.init_args.training.learning_rate .* asked for 0.5",
        ),
        (["--model.init_args.key.sigma", "7"], "found model.init_args.key.sigma .* asked for 7.0"),
        (
            ["--model.init_args.training.start", "other.ckpt"],
            "found model.init_args.training.start null in the checkpoint",
        ),
        (["--data.init_args.train_images", "160"], "found data.init_args.train_images"),
    ],
)
def test_a_resumed_training_refuses_what_it_would_not_use(run, override, message, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    resumed = ["--config", str(tmp_path / "run" / "config.yaml"), "--ckpt_path", str(tmp_path / "run")]
    with pytest.raises(ValueError, match=message):
        train.main([*resumed, *override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["--model.init_args.key.sigma", "7"], "found model.init_args.key.sigma .* use what was trained"),
        (
            ["--model.init_args.key.bits", "4", "--model.init_args.key.shift", "-4"],
            "model.init_args.key.bits 8 .*shift",
        ),
        (["--model.init_args.training.backbone", "resnet18"], "found model.init_args.training.backbone"),
        (["--model.init_args.decoder.name", "hybrid", "--model.init_args.decoder.options", "{iterations: 1}"], None),
        (["--model.init_args.test_attacks", "[paper-noise]", "--model.init_args.training.learning_rate", "0.5"], None),
    ],
)
def test_a_test_refuses_what_is_not_what_was_trained(run, override, message, tmp_path):
    command = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run), "--run_dir", str(tmp_path / "run")]
    if message is None:
        FrameworkCLI([*command, *override], purpose="test")
    else:
        with pytest.raises(ValueError, match=message):
            FrameworkCLI([*command, *override], purpose="test")


def test_a_generator_that_lies_elsewhere_is_the_same_and_another_fingerprint_is_not(run, tmp_path):
    """Files are compared by what is in them."""
    moved = write_stylegan2(tmp_path / "moved.safetensors")
    command = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run), "--run_dir", str(tmp_path / "run")]
    cli = FrameworkCLI([*command, "--model.init_args.generator", moved], purpose="test")
    cli.trainer.strategy.connect(cli.model)
    checkpoint = cli.trainer.strategy.load_checkpoint(cli.ckpt_path, weights_only=True)
    cli.model.on_load_checkpoint(checkpoint)
    other = tmp_path / "other.safetensors"
    fingerprint = cli.model.fingerprint
    write_fingerprint(type(fingerprint)(**{**vars(fingerprint), "sigma": fingerprint.sigma + 1}), other)
    settings = {key: value for key, value in checkpoint["hyper_parameters"].items() if not key.startswith("_")}
    with pytest.raises(FingerprintError, match=r"found the fingerprint .* in .*other\.safetensors, expected that of"):
        LatentFingerprint(**{**settings, "fingerprint": str(other)}).on_load_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def earlier(run, tmp_path_factory):
    """The run as version 0.1 left it: all settings side by side, in its config and in its checkpoint."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    shutil.copytree(run, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["init_args"] = side_by_side(config["model"]["init_args"])
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"] = side_by_side(checkpoint["hyper_parameters"])
    torch.save(checkpoint, folder / "checkpoints" / "last.ckpt")
    return folder


def side_by_side(settings):
    places = {place: name for name, place in MOVED.items()}
    flat = {name: value for name, value in settings.items() if name not in ("key", "training", "decoder", "test")}
    for group in ("key", "training", "decoder", "test"):
        flat |= {places[f"{group}.{name}"]: value for name, value in settings[group].items()}
    return flat


def test_a_run_of_an_earlier_version_is_tested_and_goes_on(earlier, run, tmp_path):
    command = ["--config", str(earlier / "config.yaml"), "--ckpt_path", str(earlier)]
    cli = FrameworkCLI([*command, "--run_dir", str(tmp_path / "test")], purpose="test")
    assert cli.model.hparams == LatentFingerprint.load_from_checkpoint(run / "checkpoints" / "last.ckpt").hparams
    with pytest.raises(ValueError, match=r"found model\.init_args\.key\.sigma 8\.0 in the checkpoint, asked for 7\.0"):
        FrameworkCLI([*command, "--model.init_args.key.sigma=7", "--run_dir", str(tmp_path / "no")], purpose="test")
    metrics = train.main([*command, "--trainer.max_epochs=2", "--test_after_fit=false"])
    assert metrics["val/clean/bit_accuracy"] > 0
    assert "key:" in (earlier / "config.yaml").read_text()


def test_a_checkpoint_of_before_a_setting_came_has_its_default(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    del content["hyper_parameters"]["key"]["secret"], content["hyper_parameters"]["key"]["window"]
    torch.save(content, path)
    command = ["--config", str(run / "config.yaml"), "--ckpt_path", str(path), "--run_dir", str(tmp_path / "test")]
    FrameworkCLI(command, purpose="test")
    secret = ["--model.init_args.key.secret", "file"]
    with pytest.raises(ValueError, match=r"found model.init_args.key.secret null in the checkpoint, asked for file"):
        FrameworkCLI([*command, *secret], purpose="test")
