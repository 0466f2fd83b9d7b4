"""What is asked for beside a checkpoint: used, or refused by name before anything starts."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from attributor_runs import PowerCutError, write_config
from png_files import save_png

import train
from lightning_modules.cli.framework import FrameworkCLI


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run of six epochs: its config and its folder."""
    shutil.copytree(trained.run, tmp_path / "run")
    return ["--config", str(trained.config), "--run_dir", str(tmp_path / "run"), "--ckpt_path", "last"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["--model.init_args.learning_rate", "3e-4"],
         r"found model.init_args.learning_rate 0.001 in the checkpoint, asked for 0.0003; leave it out"),
        (["--model.init_args.weight_decay", "0.1"], "found model.init_args.weight_decay null"),
        (["--model.init_args.network", "resnet10t"], "found model.init_args.network test_resnet"),
        (["--model.init_args.stem", "small", "--model.init_args.representation", "raw"],
         "representation artifact .*stem patch"),
        (["--model.init_args.controls", "[raw]"], r"controls \['raw', 'random'\] .* asked for \['raw'\]"),
        (["--seed_everything", "3"], "found seed_everything 0 in the checkpoint, asked for 3"),
        (["--data.init_args.seed", "3"], "found data.init_args.seed 0"),
        (["--data.init_args.train_fraction", "0.5", "--data.init_args.val_fraction", "0.25"], "train_fraction 0.6"),
        (["--data.init_args.batch_size", "16"], "found data.init_args.batch_size 8 in the checkpoint, asked for 16"),
        (["--trainer.max_epochs", "5"], "found 6 epochs trained already, asked for trainer.max_epochs 5"),
    ],
)  # fmt: skip
def test_a_resumed_training_refuses_what_it_would_not_use(run, override, message, tmp_path):
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(ValueError, match=message):
        train.main([*run, *override])
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    assert not (tmp_path / "run" / "config.1.yaml").exists()


def test_a_resumed_training_uses_what_it_can_and_records_that(run, tmp_path):
    free = ["--data.init_args.cache_dir", str(tmp_path / "cache"), "--model.init_args.fdr_halvings", "3"]
    train.main([*run, *free, "--trainer.max_epochs", "7", "--checkpoint_every_n_epochs", "1"])
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["epoch"] == 6  # the seventh
    (schedule,) = saved["lr_schedulers"]
    assert schedule["_last_lr"][0] < 1e-3  # of the cosine over seven epochs, which has come to its end
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["trainer"]["max_epochs"], config["model"]["init_args"]["fdr_halvings"]) == (7, 3)
    assert "max_epochs: 6" in (tmp_path / "run" / "config.1.yaml").read_text()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test/accuracy"]["n"] == 40


def test_another_number_of_steps_an_epoch_is_refused_before_the_first_step(trained, tmp_path, gm_root):
    config = write_config(tmp_path, gm_root, model={"controls": []})
    run = ["--config", str(config), "--run_dir", str(tmp_path / "run"), "--test_after_fit", "false"]
    with pytest.raises(PowerCutError):
        train.main([*run, "--trainer.callbacks", "attributor_runs.PowerCut", "--trainer.callbacks.epoch", "1"])
    with pytest.raises(ValueError, match=r"found 12 steps an epoch in the checkpoint, 6 with what is asked for"):
        train.main([*run, "--ckpt_path", "last", "--trainer.accumulate_grad_batches", "2"])
    assert "accumulate_grad_batches: 1" in (tmp_path / "run" / "config.yaml").read_text()  # not as if it was used
    both = ["--trainer.accumulate_grad_batches", "2", "--data.init_args.batch_size", "4"]
    train.main([*run, "--ckpt_path", "last", *both, "--trainer.max_epochs", "2"])
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


def test_a_training_goes_on_with_its_own_pictures_wherever_they_lie(run, trained, tmp_path, gm_root):
    shutil.copytree(gm_root, tmp_path / "moved", ignore=shutil.ignore_patterns(".gm_index"))
    there = [*run, "--data.init_args.root", str(tmp_path / "moved"), "--test_after_fit", "false"]
    train.main([*there, "--trainer.max_epochs", "6"])
    picture = next((tmp_path / "moved" / "gan-grid").glob("*.png"))
    save_png(picture, torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8).numpy())
    with pytest.raises(ValueError, match=r"moved: found other pictures in .* than those that the training began with"):
        train.main([*there, "--trainer.max_epochs", "7"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            ["--model.init_args.representation", "raw"],
            "representation artifact in the checkpoint, asked for raw",
        ),
        (["--model.init_args.network", "resnet10t"], "network test_resnet .* use what was trained"),
        (["--model.init_args.input_size", "64"], "input_size null in the checkpoint, asked for 64"),
        (["--model.init_args.learning_rate", "3e-4"], None),  # has no part in a test
        (["--model.init_args.fdr_halvings", "3"], None),
    ],
)
@pytest.mark.parametrize("purpose", ["test", "predict"])
def test_an_evaluation_refuses_what_is_not_what_was_trained(trained, override, message, purpose, tmp_path):
    command = ["--config", str(trained.config), "--ckpt_path", str(trained.run), "--run_dir", str(tmp_path / "run")]
    command += ["--images", str(tmp_path)] if purpose == "predict" else []
    if message is None:
        FrameworkCLI([*command, *override], purpose=purpose)
    else:
        command[-2:] = ["--runs_dir", str(tmp_path / "runs")] if purpose == "test" else command[-2:]
        with pytest.raises(ValueError, match=message):
            FrameworkCLI([*command, *override], purpose=purpose)
        assert not list((tmp_path / "runs").glob("test/*/*"))  # no empty run folder stays


def test_a_prediction_to_a_file_of_its_own_makes_no_run_folder(trained, tmp_path, monkeypatch, gm_root):
    import evaluate

    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    images = str(next((gm_root / "gan-grid").glob("*.png")))
    evaluate.main(["predict", "--ckpt_path", str(trained.run), "--images", images, "--out", str(tmp_path / "o.jsonl")])
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cwd", "o.jsonl"]
    assert list((tmp_path / "cwd").iterdir()) == []
