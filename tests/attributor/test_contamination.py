"""Test images that trained the attributor are refused or told; numbers that are none end in an error."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import evaluate
from lightning_modules.common.content_ids import overlap


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "change", [["--data.init_args.seed", "1"], ["--data.init_args.images_per_source", "20"]], ids=["seed", "fewer"]
)
def test_another_split_is_refused_where_it_tests_images_of_the_training(trained, tmp_path, change):
    command = ["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path), *change]
    with pytest.raises(ValueError, match=r"found \d+ of \d+ test images among the images .* trained on"):
        evaluate.main(command)
    assert not (tmp_path / "metrics.json").exists()


def test_it_is_tested_when_asked_and_said_at_the_head_of_everything(trained, tmp_path, capsys):
    command = ["test", "--ckpt_path", trained.checkpoint, "--run_dir", str(tmp_path), "--data.init_args.seed", "1"]
    evaluate.main([*command, "--allow_training_images", "true"])
    told = capsys.readouterr().out
    share = json.loads((tmp_path / "metrics.json").read_text())["test/training_images"]
    assert 0.3 < share["value"] <= 1.0
    assert "warning: Contaminated test" in told
    page = (tmp_path / "report.html").read_text()
    assert page.index("Contaminated test") < page.index("Accuracy")
    assert "test/training_images" not in json.loads((trained.run / "metrics.json").read_text())


def test_a_checkpoint_keeps_the_hashes_of_its_training_images_in_eight_bytes_each(trained):
    saved = torch.load(trained.checkpoint, weights_only=True)["attributor"]["trained_on"]
    assert (saved.dtype, saved.shape) == (torch.int64, (96,))
    assert overlap(saved, saved) == 96


def test_predict_marks_images_of_the_training(trained, tmp_path, gm_root):
    tested = {row["file"] for row in rows(trained.run / "rows.jsonl")}
    folder = tmp_path / "images"
    folder.mkdir()
    names = sorted(path.relative_to(gm_root).as_posix() for path in gm_root.glob("gan-grid/*.png"))
    unseen = next(name for name in names if any(file.endswith(name) for file in tested))
    for name in names:
        shutil.copy(gm_root / name, folder / name.replace("/", "_"))
    out = tmp_path / "out.jsonl"
    evaluate.main(["predict", "--ckpt_path", trained.checkpoint, "--images", str(folder), "--out", str(out)])
    marked = {row["file"]: row.get("training_image", False) for row in rows(out)}
    assert sum(marked.values()) == 24  # 60 % of 40
    assert not marked[str(folder / unseen.replace("/", "_"))]


def test_a_checkpoint_of_an_earlier_version_is_tested_as_before(trained, tmp_path):
    saved = torch.load(trained.checkpoint, weights_only=True)
    del saved["attributor"]["trained_on"]
    (tmp_path / "checkpoints").mkdir()
    torch.save(saved, tmp_path / "checkpoints" / "last.ckpt")
    shutil.copy(trained.run / "config.yaml", tmp_path / "config.yaml")
    command = ["test", "--ckpt_path", str(tmp_path), "--run_dir", str(tmp_path / "t")]
    evaluate.main([*command, "--data.init_args.seed", "1"])
    assert (tmp_path / "t" / "metrics.json").exists()


@pytest.mark.parametrize("command", ["test", "predict"])
def test_weights_that_are_no_numbers_end_in_an_error(trained, tmp_path, gm_root, command):
    saved = torch.load(trained.checkpoint, weights_only=True)
    weight = next(name for name in saved["state_dict"] if name.startswith("networks.networks.main.") and "conv" in name)
    saved["state_dict"][weight].view(-1)[0] = float("nan")
    (tmp_path / "checkpoints").mkdir()
    torch.save(saved, tmp_path / "checkpoints" / "last.ckpt")
    shutil.copy(trained.run / "config.yaml", tmp_path / "config.yaml")
    options = ["--run_dir", str(tmp_path / "t")]
    if command == "predict":
        options = ["--images", str(gm_root / "gan-grid"), "--out", str(tmp_path / "out.jsonl")]
    with pytest.raises(ValueError, match=r"found logits.*not finite.*weights"):
        evaluate.main([command, "--ckpt_path", str(tmp_path), *options])
    assert not (tmp_path / "out.jsonl").exists()


def test_a_checkpoint_that_does_not_say_what_trained_it_is_tested_with_a_warning(trained, tmp_path):
    """Those of earlier versions do not."""
    (tmp_path / "checkpoints").mkdir()
    saved = torch.load(trained.checkpoint, weights_only=True)
    del saved["attributor"]["trained_on"]
    torch.save(saved, tmp_path / "checkpoints" / "last.ckpt")
    shutil.copy(trained.run / "config.yaml", tmp_path)
    with pytest.warns(UserWarning, match="does not say which images trained it"):
        evaluate.main(["test", "--ckpt_path", str(tmp_path), "--run_dir", str(tmp_path / "test")])
