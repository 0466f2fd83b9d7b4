"""Where a run lives, and which checkpoint is meant."""

from __future__ import annotations

import pytest

from lightning_modules.cli.run_folder import (
    experiment_name,
    new_run_folder,
    resolve_checkpoint,
    run_folder_of,
    share_run_folder,
)


def make_run(root, experiment, stamp):
    checkpoint = root / experiment / stamp / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    return checkpoint


def test_experiment_is_the_path_below_configs(tmp_path):
    assert experiment_name(tmp_path / "configs" / "attribution" / "rgb.yaml") == "attribution/rgb"
    assert experiment_name(tmp_path / "mine.yaml") == "mine"


def test_two_runs_in_one_second_get_two_folders(tmp_path):
    assert new_run_folder("a/b", tmp_path) != new_run_folder("a/b", tmp_path)


def test_launched_process_takes_the_launchers_folder(tmp_path, monkeypatch):
    folder = new_run_folder("a", tmp_path)
    share_run_folder(folder)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert new_run_folder("a", tmp_path) == folder


def test_processes_of_a_scheduler_must_name_their_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--run_dir"):
        new_run_folder("a", tmp_path)


def test_last_is_the_newest_run_of_the_experiment(tmp_path):
    make_run(tmp_path, "a", "20260101-000000")
    newest = make_run(tmp_path, "a", "20260102-000000")
    make_run(tmp_path, "b", "20260103-000000")
    assert resolve_checkpoint("last", "a", tmp_path, None) == newest
    assert resolve_checkpoint(str(run_folder_of(newest)), "a", tmp_path, None) == newest
    assert resolve_checkpoint(str(newest), "x", tmp_path, None) == newest


@pytest.mark.parametrize("asked", ["last", "nowhere", "nowhere/epoch.ckpt"])
def test_missing_checkpoint_says_where_it_was_looked_for(tmp_path, asked):
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt|nowhere"):
        resolve_checkpoint(asked, "a", tmp_path, None)
