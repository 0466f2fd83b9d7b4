"""`evaluate.py` on a trained attributor: the same numbers again, on any number of processes; loose files; bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attributor_runs import write_config

import evaluate
from datamodules.image_io import decode_image, save_png


def read_rows(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_evaluation_gives_the_training_runs_numbers(trained, tmp_path):
    """To the last digit, with the checkpoint alone: the config is found beside it."""
    again = evaluate.main(["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path)])
    tested = {name: value for name, value in trained.metrics.items() if name.startswith("test/")}
    assert again == tested
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads((trained.run / "metrics.json").read_text())
    assert read_rows(tmp_path) == read_rows(trained.run)


@pytest.mark.parametrize("strategy", ["ddp_fork", pytest.param("ddp", marks=pytest.mark.slow)])
def test_two_processes_give_the_numbers_of_one(trained, tmp_path, strategy):
    run = ["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path)]
    run += ["--trainer.devices", "2", "--trainer.strategy", strategy, "--data.init_args.batch_size", "7"]
    if strategy == "ddp_fork":
        evaluate.main(run)
    else:  # starts its second process from the script, as a user's does
        script = Path(evaluate.__file__)
        subprocess.run([sys.executable, str(script), *run], check=True, cwd=script.parent)
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (trained.run, tmp_path))
    assert one.keys() == two.keys()
    for name in one:
        assert two[name]["n"] == one[name]["n"], name
        # batches of another size round differently in float32, hence not to the last digit
        assert two[name]["value"] == pytest.approx(one[name]["value"], rel=1e-4), name
    assert [row["file"] for row in read_rows(tmp_path)] == [row["file"] for row in read_rows(trained.run)]
    assert [row["predicted"] for row in read_rows(tmp_path)] == [row["predicted"] for row in read_rows(trained.run)]


def test_prediction_of_test_files_is_that_of_the_test(trained, tmp_path, gm_root):
    rows = {row["file"]: row for row in read_rows(trained.run)}
    folder = tmp_path / "files"
    folder.mkdir()
    for name in rows:
        shutil.copy(gm_root / name if not name.startswith("/") else name, folder / name.replace("/", "_"))
    out = tmp_path / "named.jsonl"
    evaluate.main(["predict", "--ckpt_path", trained.checkpoint, "--images", str(folder), "--out", str(out),
                   "--run_dir", str(tmp_path / "run")])  # fmt: skip
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == len(rows)
    tested = {row["content_id"]: row for row in rows.values()}
    for row in found:
        assert row["predicted"] == tested[row["content_id"]]["predicted"]
        assert row["distance"] == pytest.approx(tested[row["content_id"]]["distance"])
        assert row["probabilities"] == pytest.approx(tested[row["content_id"]]["probabilities"], abs=1e-5)
        assert "source" not in row


def test_prediction_needs_neither_the_data_set_nor_its_manifold(trained, tmp_path, gm_root):
    """The checkpoint alone, moved elsewhere with its config."""
    moved = tmp_path / "elsewhere"
    (moved / "checkpoints").mkdir(parents=True)
    shutil.copy(trained.checkpoint, moved / "checkpoints" / "last.ckpt")
    config = (trained.run / "config.yaml").read_text().replace(str(gm_root), str(tmp_path / "gone"))
    (moved / "config.yaml").write_text(config)
    image = gm_root / "gan-grid" / "00000.png"
    out = evaluate.main(
        ["predict", "--ckpt_path", str(moved), "--images", str(image), "--run_dir", str(tmp_path / "run")]
    )
    assert len(out.read_text().splitlines()) == 1


def test_a_manifold_image_is_compared_with_the_other_reals(trained, tmp_path, gm_root):
    image = gm_root / "manifold-fashion" / "00000.png"
    out = evaluate.main(
        ["predict", "--ckpt_path", trained.checkpoint, "--images", str(image), "--run_dir", str(tmp_path)]
    )
    assert json.loads(out.read_text())["distance"] > 0


def test_images_of_another_size_are_refused_by_name(trained, tmp_path, gm_root):
    save_png(tmp_path / "large.png", decode_image(gm_root / "gan-grid" / "00000.png").repeat(2, 0).repeat(2, 1))
    with pytest.raises(ValueError, match=r"large\.png.*64"):
        evaluate.main(
            ["predict", "--ckpt_path", trained.checkpoint, "--images", str(tmp_path), "--run_dir", str(tmp_path / "r")]
        )


def test_other_sources_than_the_attributors_are_refused(trained, tmp_path, gm_root):
    other = tmp_path / "gm"
    shutil.copytree(gm_root, other, ignore=shutil.ignore_patterns(".gm_index"))
    (other / "vae-blur").rename(other / "vae-other")
    config = write_config(tmp_path, other)
    with pytest.raises(ValueError, match=r"vae-other.*trained on.*vae-blur"):
        evaluate.main(
            ["test", "--config", str(config), "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path / "r")]
        )


def test_a_labelled_image_of_the_manifold_is_refused(trained, tmp_path, gm_root):
    """A data set whose class `real` was in the attributor's manifold would score artifacts of zero."""
    other = tmp_path / "gm"
    shutil.copytree(gm_root, other, ignore=shutil.ignore_patterns(".gm_index"))
    shutil.rmtree(other / "real-fashion")
    (other / "manifold-fashion").rename(other / "real-fashion")
    config = write_config(tmp_path, other)
    with pytest.raises(ValueError, match="stand in the manifold"):
        evaluate.main(
            ["test", "--config", str(config), "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path / "r")]
        )


def test_a_checkpoint_of_something_else_is_refused(trained, tmp_path):
    saved = torch.load(trained.checkpoint, weights_only=True)
    del saved["attributor"]
    torch.save(saved, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="holds no attributor"):
        evaluate.main(["test", "--config", str(trained.config), "--ckpt_path", str(tmp_path / "other.ckpt"),
                       "--run_dir", str(tmp_path / "r")])  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tset"], "unknown command 'tset': did you mean test"),
        (["test"], "--ckpt_path is needed"),
        (["test", "--ckpt_path", "last"], "needs --config"),
    ],
)
def test_incomplete_commands_say_what_is_missing(arguments, message):
    with pytest.raises(SystemExit, match=message):
        evaluate.main(arguments)
