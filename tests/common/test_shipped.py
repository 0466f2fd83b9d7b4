"""What ships is found from any folder, and what is mistyped is answered with the nearest name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lightning_modules.common.shipped import (
    CONFIGS,
    TRAINED,
    config_names,
    find_config,
    find_trained,
    program,
    with_found_configs,
)
from lightning_modules.common.tables import did_you_mean

ROOT = Path(__file__).parents[2]


def test_the_configs_that_ship_are_those_of_the_repository():
    assert CONFIGS.resolve() == (ROOT / "configs").resolve()
    assert {"quickstart.yaml", "attribution/gm_fashion.yaml", "sweeps/bits.yaml"} <= set(config_names())


@pytest.mark.parametrize(
    "name",
    ["attribution/gm_fashion.yaml", "configs/attribution/gm_fashion.yaml", "attribution/gm_fashion"],
)
def test_a_config_is_found_by_its_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(find_config(name)).resolve() == (ROOT / "configs/attribution/gm_fashion.yaml").resolve()


def test_a_file_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.yaml").write_text("seed_everything: 1")
    assert find_config("quickstart.yaml") == "quickstart.yaml"
    assert find_config("{seed_everything: 1}") == "{seed_everything: 1}"  # text of a config, which parsers take too


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("quikstart.yaml", "did you mean quickstart.yaml"),
        ("configs/attribution/gm_fashon.yaml", "did you mean attribution/gm_fashion.yaml"),
        ("../quickstart.yaml", "did you mean quickstart.yaml"),
        ("zzzzzzzz", "expected a path, or one of attacks/life.yaml"),
    ],
)
def test_no_config_of_that_name_is_said_with_the_nearest(name, nearest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=nearest):
        find_config(name)


def test_every_config_of_a_command_line_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--config", "quickstart.yaml", "-c=zoo/dcgan.yaml", "--n", "3", "--out", "quickstart.yaml"]
    shipped = [str(CONFIGS / "quickstart.yaml"), f"-c={CONFIGS / 'zoo/dcgan.yaml'}"]
    assert with_found_configs(given) == ["--config", *shipped, "--n", "3", "--out", "quickstart.yaml"]


def test_a_trained_fingerprint_is_found_by_its_name_or_its_path_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_trained("ldm") == str(TRAINED / "ldm")
    path = "lightning_modules/fingerprints/trained/stylegan2/fingerprint.safetensors"
    assert find_trained(path) == str(TRAINED / "stylegan2" / "fingerprint.safetensors")
    for other in ("last", "runs/a", "README.md", "", "/ldm", "../ldm"):
        assert find_trained(other) == other
    (tmp_path / "ldm").mkdir()
    assert find_trained("ldm") == "ldm"


@pytest.mark.parametrize(
    ("started", "train", "users"),
    [
        ("/x/bin/manifold-fingerprints", "manifold-fingerprints train", "manifold-fingerprints users"),
        ("evaluate.py", "train.py", "evaluate.py users"),
    ],
)
def test_messages_name_the_program_that_was_typed(started, train, users, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started])
    assert program("train") == train
    assert program("users") == users


def test_the_nearest_names_are_suggested():
    assert did_you_mean("pridict", ["predict", "train"]) == "did you mean predict?"
    assert did_you_mean("zzz", ["predict"], "expected predict") == "expected predict"
