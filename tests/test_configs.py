"""Every config that ships is run: a step or two, on small data, through the command line a user would type."""

from __future__ import annotations

from pathlib import Path

import pytest
from gm_folders import write_attribution_bench, write_genimage

import evaluate
import train
from lightning_modules.generators.bundled.manifest import bundled_sources

CONFIGS = Path(__file__).parents[1] / "configs"
ATTRIBUTION = sorted([CONFIGS / "quickstart.yaml", *(CONFIGS / "attribution").glob("*.yaml")])
BASELINES = sorted((CONFIGS / "attribution" / "baselines").glob("*.yaml"))
ZOO = sorted((CONFIGS / "zoo").rglob("*.yaml"))
GM_FASHION = sorted((CONFIGS / "gm_fashion").glob("*.yaml"))
GM_EMOJI = sorted((CONFIGS / "gm_emoji").glob("*.yaml"))
FINGERPRINTED = CONFIGS / "generate" / "fingerprinted.yaml"  # run by tests/cli/generate/test_generate_fingerprinted.py
GENERATE = sorted({*(CONFIGS / "generate").glob("*.yaml")} - {FINGERPRINTED})
FINGERPRINT = sorted((CONFIGS / "fingerprint").glob("*.yaml"))  # run by tests/latent_fingerprint
SWEEPS = sorted((CONFIGS / "sweeps").glob("*.yaml"))  # checked by tests/cli/sweep/test_sweep_file.py
ATTACKS = sorted((CONFIGS / "attacks").glob("*.yaml"))  # lists of attacks, run by tests/attacks
SLOW_BASELINES = ("marra2018", "nataraj2019", "wang2020", "yu2019")
SHORT = [
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.logger=false",
]


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


def test_every_config_is_run_here_or_by_the_tests_named_above():
    run_here = [*ATTRIBUTION, *BASELINES, *ZOO, *GM_FASHION, *GM_EMOJI, *GENERATE]
    run_elsewhere = [*ATTACKS, FINGERPRINTED, *FINGERPRINT, *SWEEPS]
    assert sorted([*run_here, *run_elsewhere]) == sorted(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("config", sorted(CONFIGS.rglob("*.yaml")), ids=name)
def test_configs_stay_short(config):
    assert len(config.read_text().splitlines()) <= 40


TWO_SEEDS = CONFIGS / "attribution" / "two_seeds.yaml"  # run on its own data set, below
INDEXED = {"genimage": write_genimage, "imageattributionbench": write_attribution_bench}
LONG = {  # networks for images of another size than the test's: 20 s each and more
    **{f"attribution/{layout}": [pytest.mark.slow] for layout in INDEXED},
    "attribution/gm_celeba": [pytest.mark.slow],
    "attribution/gm_256px": [pytest.mark.slow],
    **{f"attribution/baselines/{method}": [pytest.mark.slow] for method in SLOW_BASELINES},
}


@pytest.mark.parametrize(
    "config",
    [pytest.param(each, id=name(each), marks=LONG.get(name(each), [])) for each in ATTRIBUTION if each != TWO_SEEDS],
)
def test_attribution_config_trains_and_tests(config, gm_root, tmp_path):
    data = ["--data.init_args.batch_size=8", "--data.init_args.num_workers=0"]
    if write := INDEXED.get(config.stem):
        gm_root = write(tmp_path / "images")
        index = evaluate.main(["index", str(gm_root), "--layout", config.stem])
        data += [f"--data.init_args.index_file={index}", "--data.init_args.center_crop=14"]
    data += [f"--data.init_args.root={gm_root}"]
    data += [f"--data.init_args.cache_dir={tmp_path / 'cache'}", "--trainer.limit_val_batches=2"]
    if name(config) == "attribution/open_set":
        data += ["--data.init_args.unknown_sources=[gan-grid]"]
    # the controls are the same code for every config: one is enough here, and eight times quicker
    data += ["--model.init_args.control_seeds=1", "--model.init_args.controls=[raw]"]
    metrics = train.main(["--config", str(config), f"--run_dir={tmp_path / 'run'}", *SHORT, *data])
    assert 0 <= metrics["test/accuracy"] <= 1
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_two_seeds_are_generated_trained_on_and_put_into_their_table(tmp_path, capsys):
    """The three commands that the config names."""
    small = ["--n=40", "--real_images=40", "--manifold_images=40", f"--out={tmp_path / 'gm'}"]
    root = evaluate.main(["generate", "--config", str(CONFIGS / "gm_emoji" / "two_seeds.yaml"), *small])
    run = tmp_path / "run"
    train.main(["--config", str(TWO_SEEDS), f"--run_dir={run}", *SHORT, f"--data.init_args.root={root}"])
    evaluate.main(["compare", "--table", "two_seeds", str(run), "--out", str(tmp_path / "tables")])
    assert "## gan-dcgan and gan-dcgan-seed2\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "config", [pytest.param(each, id=name(each), marks=LONG.get(name(each), [])) for each in BASELINES]
)
def test_baseline_config_trains_and_tests(config, gm_root, tmp_path):
    """As they are, without controls: what they see is their own."""
    data = [f"--data.init_args.root={gm_root}", "--data.init_args.batch_size=4", "--data.init_args.num_workers=0"]
    data += [f"--data.init_args.cache_dir={tmp_path / 'cache'}", "--trainer.limit_val_batches=2"]
    metrics = train.main(["--config", str(config), f"--run_dir={tmp_path / 'run'}", *SHORT, *data])
    assert 0 <= metrics["val/accuracy"] <= 1
    assert metrics["test/fdr"] > 0
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("config", ZOO, ids=name)
def test_zoo_config_trains(config, tmp_path):
    real_set = "emoji_sample" if config.parent.name == "emoji" else "fashion_sample"
    data = [f"--data.init_args.name={real_set}", "--data.init_args.batch_size=16"]
    if config.stem.endswith("_64px"):
        data += ["--data.init_args.resize=64"]
    metrics = train.main(["--config", str(config), f"--run_dir={tmp_path / 'run'}", *SHORT, *data])
    assert any(key.startswith("train/") for key in metrics)
    assert all(abs(value) < float("inf") for value in metrics.values())
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("config", GM_FASHION, ids=name)
def test_gm_fashion_config_writes_a_data_set(config, tmp_path):
    small = ["--n=2", "--real_images=2", "--manifold_images=3", "--reals=fashion_sample", "--processes=1"]
    folder = evaluate.main(["generate", "--config", str(config), f"--out={tmp_path / 'gm'}", *small])
    counts = {path.name: len(list(path.glob("*.png"))) for path in folder.iterdir() if path.is_dir()}
    assert counts.pop("manifold-fashion") == 3
    assert set(counts.values()) == {2}
    assert "real-fashion" in counts
    assert {source.partition("-")[0] for source in counts} == {"real", "gan", "vae", "flow", "score"}


@pytest.mark.parametrize("config", GM_EMOJI, ids=name)
def test_gm_emoji_config_writes_a_data_set(config, tmp_path):
    small = ["--n=2", "--real_images=2", "--manifold_images=3", "--reals=emoji_sample", "--processes=1"]
    folder = evaluate.main(["generate", "--config", str(config), f"--out={tmp_path / 'gm'}", *small])
    counts = {path.name: len(list(path.glob("*.png"))) for path in folder.iterdir() if path.is_dir()}
    assert counts.pop("manifold-emoji") == 3
    assert set(counts.values()) == {2}
    bundled = {source.rpartition("/")[2] for source in bundled_sources() if source.startswith("emoji/")}
    expected = {"gan-dcgan", "gan-dcgan-seed2"} if config.stem == "two_seeds" else bundled
    assert set(counts) == {"real-emoji", *expected}


@pytest.mark.parametrize("config", GENERATE, ids=name)
def test_generate_config_writes_images(config, tmp_path):
    folder = evaluate.main(
        ["generate", "--config", str(config), f"--out={tmp_path / 'images'}", "--n=2", "--processes=1"]
    )
    assert len(list(folder.glob("*.png"))) == 2
    assert (folder / "generation.json").is_file()
