"""The command line: unknown keys, bad values, config files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_modules.cli.framework import FrameworkCLI
from lightning_modules.cli.options import WITH_REGISTRATIONS, check_run
from lightning_modules.cli.parser import nearest_keys
from lightning_modules.fingerprints.decoders.registry import DECODERS, decoder_settings

CONFIG = """
trainer: {max_steps: 1, accelerator: cpu, logger: false}
model: {class_path: pytorch_lightning.demos.boring_classes.BoringModel}
data: {class_path: datamodules.RealImagesDataModule, init_args: {name: fashion_sample, batch_size: 8}}
"""


def run(tmp_path: Path, *arguments: str, config: str = CONFIG) -> FrameworkCLI:
    file = tmp_path / "experiment.yaml"
    file.write_text(config)
    return FrameworkCLI(["--config", str(file), "--runs_dir", str(tmp_path / "runs"), *arguments], purpose="train")


def complaint(tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str, config: str = CONFIG) -> str:
    with pytest.raises(SystemExit) as left:
        run(tmp_path, *arguments, config=config)
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "found", "nearest"),
    [
        (("--data.init_args.batchsize", "5"), "batchsize", "batch_size"),
        (("--trainer.max_step", "5"), "trainer.max_step", "trainer.max_steps"),
        (("--modell", "x"), "modell", "model"),
    ],
)
def test_unknown_option_names_the_nearest(tmp_path, capsys, arguments, found, nearest):
    message = complaint(tmp_path, capsys, *arguments)
    assert f"unknown key '{found}': did you mean {nearest}" in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("right", "wrong", "nearest"),
    [("batch_size", "batch_sise", "batch_size"), ("max_steps", "max_stepz", "trainer.max_steps")],
)
def test_unknown_key_in_a_file_names_the_nearest(tmp_path, capsys, right, wrong, nearest):
    message = complaint(tmp_path, capsys, config=CONFIG.replace(right, wrong))
    assert f"unknown key '{wrong}': did you mean {nearest}" in message


def test_bad_value_says_what_was_given_and_expected(tmp_path, capsys):
    message = complaint(tmp_path, capsys, "--data.init_args.batch_size", "hello")
    assert "batch_size" in message
    assert "found batch_size hello, expected a whole number" in message


def test_override_reaches_the_datamodule_and_the_written_config(tmp_path):
    cli = run(tmp_path, "--data.init_args.batch_size", "7")
    assert cli.datamodule.hparams["batch_size"] == 7
    assert "batch_size: 7" in (cli.run_dir / "config.yaml").read_text()


def test_the_written_config_runs_again_and_names_no_run(tmp_path):
    first = run(tmp_path, "--run_dir", str(tmp_path / "here"))
    again = FrameworkCLI(["--config", str(first.run_dir / "config.yaml")], purpose="train")
    assert again.config["run_dir"] is None
    assert again.run_dir != first.run_dir
    assert again.experiment == first.experiment == "experiment"


def test_changed_config_of_a_run_folder_keeps_the_earlier_one(tmp_path):
    for size in ("3", "4"):
        run(tmp_path, "--run_dir", str(tmp_path / "here"), "--data.init_args.batch_size", size)
    assert "batch_size: 3" in (tmp_path / "here" / "config.1.yaml").read_text()
    assert "batch_size: 4" in (tmp_path / "here" / "config.yaml").read_text()


def test_nearest_keys_prefers_the_leaf():
    assert nearest_keys("model.lerning_rate", ["learning_rate", "weight_decay"]) == ["learning_rate"]
    assert nearest_keys("zzz", ["learning_rate"]) == []
    assert nearest_keys("decoder_options", ["options", "decoder", "decoder.options"]) == ["decoder.options"]


def test_null_leaves_out_a_group_of_settings(tmp_path):
    line = ["--config", "attribution/robust.yaml", "--runs_dir", str(tmp_path), "--model.init_args.augmentation"]
    assert check_run("train", [*line, "null"]) is not None
    with pytest.raises(SystemExit, match=r"group of settings, expected one of them, such as .*augmentation\.attack"):
        check_run("train", [*line, "jpeg_80"])


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (
            "--model.init_args.decoder.options=[flip, shift]",
            "found decoder.options ['flip', 'shift'], expected a mapping",
        ),
        ("--model.init_args.training.bank=many", "found training.bank many, expected a whole number"),
        ("--seed_everything=first", "found seed_everything first, expected true or false or a whole number"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_in_a_line(tmp_path, option, told, capsys):
    line = ["--ckpt_path", "ldm64", "--run_dir", str(tmp_path / "run"), option]
    with pytest.raises(SystemExit) as left:
        FrameworkCLI(check_run("test", line), purpose="test")
    assert left.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"evaluate.py test: error: {told}")


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        ("--trainer.precision=16mixed", "16-mixed"),
        ("--trainer.logger.class_path=pytorch_lightning.loggers.TensorBoardLoger", "TensorBoardLoger"),
        ("--model.init_args.test_attacks=[5]", "5"),
        (
            "--trainer.callbacks=[{class_path: pytorch_lightning.callbacks.LearningRateMonitor, "
            "init_args: {log_momentum: maybe}}]",
            "maybe",
        ),
    ],
)
def test_what_only_the_tree_of_attempts_says_is_kept(tmp_path, option, kept, capsys):
    line = ["--ckpt_path", "ldm64", "--run_dir", str(tmp_path / "run"), option]
    with pytest.raises(SystemExit):
        FrameworkCLI(check_run("test", line), purpose="test")
    said = capsys.readouterr().err
    assert kept in said.partition("error: ")[2]
    assert "expected a whole number or null" not in said


REGISTERED = {"registrations": ["flip", "shift", "zoom", "turn", "fine"]}


def test_decoders_with_registrations_are_those_whose_settings_have_them():
    having = [name for name in DECODERS if hasattr(decoder_settings(name), "registrations")]
    assert tuple(having) == WITH_REGISTRATIONS


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        (["--model.init_args.decoder.name", "inversion"], None),  # would have none of them
        (["--model.init_args.decoder.name=inversion"], None),
        (["--model.decoder.name=inversion"], None),
        (["--model.init_args.decoder", "{name: inversion}"], None),
        (["--model.init_args.decoder.name=hybrid"], REGISTERED),
        (["--model.init_args.decoder.name=amortised"], REGISTERED),
        (["--model.init_args.decoder.name=refined"], REGISTERED),
        ([], REGISTERED),
        (["--model.init_args.decoder.name=hybrid", "--model.init_args.decoder.options={steps: 2}"], {"steps": 2}),
    ],
)
def test_another_decoder_than_the_runs_begins_without_its_options(tmp_path, asked, options):
    line = ["--ckpt_path", "ldm64", "--run_dir", str(tmp_path / "run"), *asked]
    cli = FrameworkCLI(check_run("test", line), purpose="test")
    assert cli.model.decoder.options == options
