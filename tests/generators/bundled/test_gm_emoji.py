"""GM-Emoji from a bare checkout: the files that ship are enough, and any number of processes write the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import evaluate
from datamodules.real.emoji import SAMPLE_ROOT
from lightning_modules.generators.bundled.manifest import WEIGHTS_FOLDER

CONFIGS = Path(__file__).parents[3] / "configs" / "gm_emoji"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_quickstart_is_the_same_on_one_and_two_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no package, no data: what ships is enough
    small = ["--n=68", "--real_images=5", "--manifold_images=5"]
    sources = "--sources=[emoji/gan-dcgan, emoji/flow-realnvp, emoji/gan-stylegan2]"  # all: a slow test elsewhere
    for processes in (1, 2):
        config = ["generate", "--config", str(CONFIGS / "quickstart.yaml"), f"--processes={processes}"]
        evaluate.main([*config, *small, sources, f"--out={tmp_path / str(processes)}"])
    one = contents(tmp_path / "1")
    assert len(one) == 3 * 68 + 2 * 5 + 1
    assert contents(tmp_path / "2") == one


def test_the_full_set_says_how_to_get_its_reals(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SystemExit, FileNotFoundError), match=r"npm install emoji-datasource-google@16\.0\.0"):
        evaluate.main(["generate", "--config", str(CONFIGS / "full.yaml")])
    assert not (tmp_path / "data").exists()


def test_configs_name_all_bundled_sources_in_one_order():
    settings = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGS.glob("*.yaml")}
    assert settings["quickstart"]["sources"] == settings["full"]["sources"]
    assert {each["white_above"] for each in settings.values()} == {247}
    assert {each["seed"] for each in settings.values()} == {0}


def test_weights_and_pictures_of_emoji_stay_below_25_megabytes():
    """At 32 and 64 px, with the reals of GM-Emoji, which ship for its quickstart."""
    folders = (WEIGHTS_FOLDER / "emoji", WEIGHTS_FOLDER / "emoji_64", SAMPLE_ROOT)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert 10e6 < sum(path.stat().st_size for path in files) < 25e6
