"""`evaluate.py` on a trained attributor: the same numbers again, on any number of processes; loose files; bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from attributor_runs import write_config
from PIL import Image
from png_files import save_png

import evaluate
from datamodules.images.image_io import decode_image
from datamodules.images.problems import GMDataError


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
def test_two_processes_give_the_bytes_of_one(trained, tmp_path, strategy):
    run = ["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path)]
    run += ["--trainer.devices", "2", "--trainer.strategy", strategy]
    if strategy == "ddp_fork":
        evaluate.main(run)
    else:  # starts its second process from the script, as a user's does
        script = Path(evaluate.__file__)
        subprocess.run([sys.executable, str(script), *run], check=True, cwd=script.parent)
    for name in ("metrics.json", "rows.jsonl", "results.csv"):
        assert (tmp_path / name).read_bytes() == (trained.run / name).read_bytes()


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


def evidence(folder, gm_root):
    """Nine files: three of the data set, one larger, five that cannot be used."""
    folder.mkdir()
    for number in range(3):
        shutil.copy(gm_root / "gan-grid" / f"{number:05d}.png", folder / f"{number}.png")
    pixels = decode_image(folder / "0.png")
    shutil.copy(folder / "0.png", folder / os.fsdecode(b"caf\xe9"))
    save_png(folder / "large.png", pixels.repeat(2, 0).repeat(2, 1))
    (folder / "bad.png").write_bytes((folder / "0.png").read_bytes()[:200])
    Image.new("RGBA", (32, 32)).save(folder / "blank.png")
    Image.new("CMYK", (32, 32)).save(folder / "inks.jpg")
    Image.fromarray(pixels).save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    (folder / "notes.txt").write_text("x")
    return folder


@pytest.mark.parametrize("processes", [1, 2])
def test_files_in_are_rows_and_files_left_out(trained, tmp_path, gm_root, processes, capsys):
    folder = evidence(tmp_path / "evidence", gm_root)
    command = ["predict", "--ckpt_path", trained.checkpoint, "--images", str(folder), "--run_dir", str(tmp_path / "r")]
    with pytest.raises(GMDataError) as caught:
        evaluate.main([*command, "--run_dir", str(tmp_path / "stopped")])
    for words in ("5 problems, nothing was predicted; `--skip_unreadable true`", "large.png: 64x64", "`--resize`"):
        assert words in str(caught.value)
    assert "trained or" not in str(caught.value)
    if processes == 2:
        command += ["--trainer.devices", "2", "--trainer.strategy", "ddp_fork"]
    out = evaluate.main([*command, "--skip_unreadable", "true"])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    names = [row["file"].rpartition("/")[2] for row in rows]
    assert names == [
        "0.png",
        "1.png",
        "2.png",
        "bad.png",
        "blank.png",
        r"caf\xe9",
        "inks.jpg",
        "large.png",
        "moving.gif",
    ]
    answered = {name for name, row in zip(names, rows, strict=True) if row["predicted"] is not None}
    assert answered == {"0.png", "1.png", "2.png", r"caf\xe9"}
    reasons = {name: row["reason"] for name, row in zip(names, rows, strict=True) if "reason" in row}
    assert sorted(reasons) == ["bad.png", "blank.png", "inks.jpg", "large.png", "moving.gif"]
    assert "transparent" in reasons["blank.png"]
    assert "64x64 (width x height), expected 32x32" in reasons["large.png"]
    assert rows[0]["content_id"] == rows[5]["content_id"]
    (left,) = [json.loads(line) for line in out.with_name(f"{out.stem}.left_out.jsonl").read_text().splitlines()]
    assert (left["file"], left["reason"]) == (f"{folder}/notes.txt", "no image")
    if processes == 1:
        told = capsys.readouterr().err
        assert f"note: images {folder}: found 9 images, left 1 out (1 no image: {folder}/notes.txt)" in told
        assert "skipped 5 that cannot be used, each with a row" in told


def test_files_unlike_those_of_the_training_are_noted(trained, tmp_path, gm_root, capsys):
    folder = tmp_path / "folder [1]" / os.fsdecode(b"\xe9vidence")
    folder.mkdir(parents=True)
    image = Image.open(gm_root / "gan-grid" / "00000.png")
    image.resize((64, 64)).convert("L").save(folder / "grey.jpg")
    shutil.copy(gm_root / "gan-grid" / "00000.png", folder / "same.png")
    out = evaluate.main(
        ["predict", "--ckpt_path", trained.checkpoint, "--images", str(folder / "*"), "--resize", "32",
         "--run_dir", str(tmp_path / "r")]
    )  # fmt: skip
    assert [json.loads(line)["file"].rpartition("/")[2] for line in out.read_text().splitlines()] == [
        "grey.jpg",
        "same.png",
    ]
    told = capsys.readouterr().err
    for words in ("format that no training file had: JPEG (1)", "mode that no training file had: L (1)", "64x64 (1)"):
        assert f"note: images {tmp_path}/folder [1]/" in told
        assert words in told
    recorded = json.loads((tmp_path / "r" / "provenance.json").read_text())["command"]
    assert str(folder / "*") in recorded
    assert yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())["images"] == str(folder / "*")


def test_a_checkpoint_without_a_description_of_its_files_still_names_sources(trained, tmp_path, gm_root, capsys):
    saved = torch.load(trained.checkpoint, weights_only=True)
    assert saved["attributor"].pop("training_files")["format"].keys() == {"PNG"}
    (tmp_path / "old").mkdir()
    shutil.copy(trained.run / "config.yaml", tmp_path / "old")
    torch.save(saved, tmp_path / "old" / "last.ckpt")
    image = tmp_path / "image.bmp"
    Image.open(gm_root / "gan-grid" / "00000.png").save(image)
    out = evaluate.main(
        ["predict", "--ckpt_path", str(tmp_path / "old" / "last.ckpt"), "--images", str(image),
         "--run_dir", str(tmp_path / "r")]
    )  # fmt: skip
    assert len(out.read_text().splitlines()) == 1
    assert "no training file" not in capsys.readouterr().err


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
