"""The configs of fingerprints that ship: run at small sizes, and the paper's settings to the number."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_fingerprints import read_metrics, read_rows, write_stylegan2, write_vq

import train
from lightning_modules.fingerprints.fingerprint import read_fingerprint
from lightning_modules.fingerprints.unmarked_bank import FILE_NAME, read_bank

CONFIGS = Path(__file__).parents[2] / "configs" / "fingerprint"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.logger=false"]
QUIET += ["--trainer.accelerator=cpu"]


def settings(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return config, config["model"]["init_args"]


def check_folder(run, images):
    assert len(read_rows(run)) == images
    for name in ("report.html", "fingerprint.safetensors", "checkpoints/last.ckpt", "config.yaml"):
        assert (run / name).stat().st_size > 0, name
    assert list((run / "figures").glob("*.png"))


def test_every_config_of_fingerprints_is_run_here():
    assert {path.stem for path in CONFIGS.iterdir()} == {
        *("stylegan2", "ldm", "stylegan2_64", "ldm64", "ldm64_corrected", "ldm64_emoji", "stylegan2_paper", "ldm_paper")
    }


SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("stylegan2_64", "ldm64", "ldm64_corrected", "ldm64_emoji")
]


@pytest.mark.parametrize("name", ["stylegan2", "ldm", *SLOW])
def test_the_config_trains_and_tests(name, tmp_path):
    run = tmp_path / "run"
    negatives = 4 if name == "ldm64_emoji" else 16  # a verdict takes seconds there
    small = ["--data.init_args.train_images=16", "--data.init_args.val_images=8", "--data.init_args.batch_size=8"]
    small += [
        "--data.init_args.test_images=8",
        f"--data.init_args.negative_images={negatives}",
        "--trainer.max_epochs=1",
    ]
    small += ["--data.init_args.reals=fashion_sample", "--model.init_args.test_attacks=[paper-strongest-jpeg]"]
    small += ["--model.init_args.key.fit_latents=300", "--model.init_args.training.unmarked_images=8"]
    if name not in ("stylegan2_64", "ldm64_corrected"):  # which begin with another network
        small += ["--model.init_args.training.backbone=test_resnet"]
    if name.startswith("ldm"):
        small += ["--model.init_args.options={steps: 1}", "--model.init_args.training.bank=100"]
    metrics = train.main(["--config", str(CONFIGS / f"{name}.yaml"), "--run_dir", str(run), *QUIET, *small])
    assert {"train/bit_accuracy", "val/clean/bit_accuracy", "val/attacked/bit_accuracy"} <= set(metrics)
    check_folder(run, 8)
    assert read_bank(run / FILE_NAME, read_fingerprint(run / "fingerprint.safetensors").id).own_images == 8
    found = read_metrics(run)
    assert found["test/paper-strongest-jpeg/bit_accuracy"]["value"] <= 1
    assert found["test/quality/fid_own"]["n"] == negatives // 2
    kinds = {"unmarked", "wrong_key", "other_generator", "real"}
    if settings(name)[1]["test"]["other_generator"] is None:
        kinds.remove("other_generator")
    for kind in kinds:
        assert found[f"test/negatives/{kind}/false_positive_rate_1e-3"]["n"] == negatives


SMALL_PAPER = {"stylegan2_paper": (write_stylegan2, {"key.shift": 12}), "ldm_paper": (write_vq, {"key.shift": 100})}


@pytest.mark.parametrize("name", SMALL_PAPER)
def test_the_papers_preset_runs_without_training(name, tmp_path):
    write, key = SMALL_PAPER[name]
    file = write(tmp_path / "g.safetensors")
    options = {"starts": 2, "steps": 3}
    small = [f"--model.init_args.generator={file}", "--model.init_args.decoder.loss={name: pixels}"]
    small += [
        f"--model.init_args.{option}={value}"
        for option, value in ({"key.bits": 4, "key.fit_latents": 300} | key).items()
    ]
    small += [f"--model.init_args.decoder.options.{option}={value}" for option, value in options.items()]
    small += ["--data.init_args.test_images=2", "--model.init_args.test_attacks=[paper-jpeg]"]
    small += ["--model.init_args.training.backbone=test_resnet"]
    if name == "ldm_paper":
        small += ["--model.init_args.options.steps=2"]
    run = tmp_path / "run"
    train.main(["--config", str(CONFIGS / f"{name}.yaml"), "--run_dir", str(run), *QUIET, *small])
    check_folder(run, 2)
    used = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["decoder"]["options"]
    # overriding two settings leaves the others as the file has them
    assert used == settings(name)[1]["decoder"]["options"] | options
    assert set(read_rows(run)[0]["matching_bits"]) == {"clean", "paper-jpeg"}
    assert not any("negatives" in metric for metric in read_metrics(run))


@pytest.mark.parametrize(
    ("name", "own", "options", "penalty"),
    [
        ("stylegan2_paper", {"shift": 448, "fit_latents": 10_000, "latent_prior": "gaussian"}, None, 0.1),
        (
            "ldm_paper",
            {"shift": 4000, "fit_latents": 50_000, "latent_prior": "projected", "layout": "repeated"},
            {"steps": 50, "eta": 1.0},
            0.005,
        ),
    ],
    ids=["stylegan2", "ldm"],
)
def test_the_papers_settings_are_the_papers(name, own, options, penalty):
    config, module = settings(name)
    assert module["key"] == {"bits": 64, "sigma": 1.0} | own  # not centred: a key of zeros marks nothing
    assert module.get("options") == options
    searched = {"starts": 20, "steps": 2000, "learning_rate": 0.2, "decay": 0.001, "penalty": penalty}
    assert module["decoder"] == {  # no shortcut that the paper does not take, and no knowledge of the attack
        "name": "paper",
        "options": searched | {"batch": 20},
        "loss": {"name": "lpips", "network": "vgg"},
    }
    assert config["trainer"]["max_epochs"] == 0
