"""Calibration, detection and unseen sources, from training to report, `predict` and enrolment; on small data."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from attributor_runs import write_config
from sklearn.metrics import roc_auc_score

import evaluate
import train

SMALL = {"representation": "raw", "network": "small_cnn_16", "stem": "auto", "controls": [], "learning_rate": None}
KNOWN = ["gan-grid", "real-fashion", "score-noise"]


@pytest.fixture(scope="module")
def held_out(tmp_path_factory, gm_root):
    """An attributor that has never seen `vae-blur`; thresholds need 19 validation images."""
    folder = tmp_path_factory.mktemp("open")
    data = {"unknown_sources": ["vae-blur"], "cache_dir": str(folder / "cache"), "val_fraction": 0.5}
    data |= {"train_fraction": 0.25, "test_fraction": 0.25}
    model = {**SMALL, "test_attacks": ["jpeg_50"], "flip": True}
    config = write_config(folder, gm_root, model=model, data=data)
    found = train.main(["--config", str(config), "--run_dir", str(folder / "run"), "--trainer.max_epochs", "3"])
    return folder, found


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def test_every_condition_has_all_numbers(held_out):
    folder, logged = held_out
    found = metrics_of(folder / "run")
    scores = ("probability", "energy", "features")
    names = ["ece", "ece_uncalibrated", "detection/auroc", "detection/tpr_at_5_fpr", "detection/fpr"]
    names += [f"unknown/{score}/{name}" for score in scores for name in ("auroc", "tpr_at_5_fpr", "fpr")]
    names += ["unknown/1_shot/rank1", "unknown/5_shot/map"]
    for prefix in ("test/", "test/jpeg_50/"):
        for name in names:
            assert found[f"{prefix}{name}"]["low"] is not None, name
            assert logged[f"{prefix}{name}"] == pytest.approx(found[f"{prefix}{name}"]["value"])
    table = (folder / "run" / "results.csv").read_text()
    assert "unknown/features,jpeg_50,jpeg,50.0,0,auroc" in table
    page = (folder / "run" / "report.html").read_text()
    for words in ("Calibration", "Real or generated", "Unseen sources", "nobody knows: vae-blur"):
        assert words in page


def test_detection_is_that_of_the_rows(held_out):
    """AUROC from the probabilities that the rows state."""
    folder, _ = held_out
    rows = [json.loads(line) for line in (folder / "run" / "rows.jsonl").read_text().splitlines()]
    clean = [row for row in rows if row["attack"] == "clean"]
    assert {row["source"] for row in rows} == set(KNOWN)  # rows are of known sources
    real = np.array([row["source"] == "real-fashion" for row in clean])
    generated = np.array([1 - row["probabilities"]["real-fashion"] for row in clean])
    expected = roc_auc_score(~real, generated)
    assert metrics_of(folder / "run")["test/detection/auroc"]["value"] == pytest.approx(expected, abs=0.02)


def test_the_checkpoint_holds_what_was_learnt(held_out):
    folder, _ = held_out
    saved = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)["attributor"]["reference"]
    assert saved["temperature"] != 1.0
    assert len(saved["scores"]["label"]) == 60
    assert metrics_of(folder / "run")["test/ece"]["temperature"] == saved["temperature"]


def test_two_processes_give_the_bytes_of_one(held_out, tmp_path):
    folder, _ = held_out
    evaluate.main(["test", "--ckpt_path", str(folder / "run"), "--run_dir", str(tmp_path / "two"),
                   "--trainer.devices", "2", "--trainer.strategy", "ddp_fork"])  # fmt: skip
    for name in ("metrics.json", "rows.jsonl", "results.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (folder / "run" / name).read_bytes()


def predict(run, images, out, *more):
    evaluate.main(["predict", "--ckpt_path", str(run), "--images", str(images), "--out", str(out), *more])
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_predict_says_generated_and_unknown(held_out, tmp_path, gm_root):
    folder, _ = held_out
    rows = predict(folder / "run", gm_root / "vae-blur", tmp_path / "p.jsonl")
    assert len(rows) == 40
    for row in rows:
        assert row["generated"]["verdict"] in (True, False)
        assert row["generated"]["false_positive_rate"] == 0.05
        p = row["probabilities"]["real-fashion"]
        assert row["generated"]["score"] == pytest.approx(np.log1p(-p) - np.log(p), abs=1e-3)
        assert isinstance(row["unknown"], bool)
        assert "enrolled" not in row


def test_a_set_of_images_gets_one_verdict(held_out, tmp_path, gm_root, capsys):
    folder, _ = held_out
    few = tmp_path / "few"
    few.mkdir()
    for number in range(12):
        shutil.copy(gm_root / "score-noise" / f"{number:05d}.png", few)
    *rows, last = predict(folder / "run", few, tmp_path / "p.jsonl", "--as_set", "true")
    assert len(rows) == 12
    assert (last["set"], last["files"]) == (True, 12)
    sums = {name: sum(np.log(row["probabilities"][name]) for row in rows) for name in KNOWN}
    assert max(sums, key=sums.get) == max(last["log_probabilities"], key=last["log_probabilities"].get)
    assert last["p_none_of_these"] == max(last["p_values"].values())
    assert set(last["p_values"]) == set(KNOWN)
    assert "taken together, the 12 files" in capsys.readouterr().out


def test_an_earlier_checkpoint_still_answers(held_out, tmp_path, gm_root):
    folder, _ = held_out
    saved = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    del saved["attributor"]["reference"]
    (tmp_path / "old").mkdir()
    shutil.copy(folder / "run" / "config.yaml", tmp_path / "old")
    torch.save(saved, tmp_path / "old" / "last.ckpt")
    run = tmp_path / "old" / "last.ckpt"
    *rows, last = predict(run, gm_root / "gan-grid", tmp_path / "p.jsonl", "--as_set", "true")
    assert rows[0]["unknown"] is None
    assert rows[0]["generated"]["verdict"] is None
    assert last["predicted"] is None
    assert "val_fraction" in last["reason"]
    found = evaluate.main(["test", "--ckpt_path", str(run), "--run_dir", str(tmp_path / "test")])
    assert "test/unknown/energy/auroc" in found
    assert "test/unknown/features/auroc" not in found


@pytest.fixture
def copied(held_out, tmp_path):
    """The run, to be changed."""
    folder, _ = held_out
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(folder / "run" / "config.yaml", tmp_path / "run")
    shutil.copy(folder / "run" / "checkpoints" / "last.ckpt", tmp_path / "run" / "checkpoints")
    return tmp_path / "run"


def test_a_new_source_is_enrolled_found_and_removed(copied, tmp_path, gm_root, capsys):
    few = tmp_path / "few"
    few.mkdir()
    for number in range(10):
        shutil.copy(gm_root / "vae-blur" / f"{number:05d}.png", few)
    checkpoint = copied / "checkpoints" / "last.ckpt"
    enrol = ["enrol", "--ckpt_path", str(copied)]
    assert evaluate.main([*enrol, "--list"]) == {}
    assert evaluate.main([*enrol, "--name", "vae-new", "--images", str(few), "--shots", "5"]) == {"vae-new": 5}
    assert evaluate.main([*enrol, "--name", "vae-new", "--images", str(few)]) == {"vae-new": 10}
    assert "vae-new: 10 images" in capsys.readouterr().out
    assert [path.name for path in checkpoint.parent.iterdir() if path.suffix == ".partial"] == []
    # its own images are the most similar there are
    rows = predict(copied, few, tmp_path / "p.jsonl")
    doubtful = [row["enrolled"] for row in rows if "enrolled" in row]
    assert doubtful
    for found in doubtful:
        assert found["name"] == "vae-new"
        assert found["similarity"] == pytest.approx(1.0, abs=1e-3)
        assert found["verdict"] is True
    # a trained source's images are hardly ever taken for it
    known = predict(copied, gm_root / "score-noise", tmp_path / "q.jsonl")
    assert sum(row.get("enrolled", {}).get("verdict") is True for row in known) <= 8
    # a test's identity and numbers are those of before
    again = evaluate.main(["test", "--ckpt_path", str(copied), "--run_dir", str(tmp_path / "test")])
    assert "test/unknown/features/auroc" in again
    assert evaluate.main([*enrol, "--remove", "vae-new"]) == {}
    assert "enrolled" not in predict(copied, few, tmp_path / "r.jsonl", "--fresh", "true")[0]


def test_an_enrolled_source_changes_no_number_of_the_test(held_out, copied, tmp_path, gm_root):
    folder, _ = held_out
    image = str(gm_root / "vae-blur" / "00000.png")
    evaluate.main(["enrol", "--ckpt_path", str(copied), "--name", "vae-new", "--images", image])
    evaluate.main(["test", "--ckpt_path", str(copied), "--run_dir", str(tmp_path / "test")])
    assert metrics_of(tmp_path / "test") == metrics_of(folder / "run")


def test_a_full_disk_loses_no_checkpoint(copied, gm_root, monkeypatch):
    checkpoint = copied / "checkpoints" / "last.ckpt"
    before = checkpoint.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    image = str(gm_root / "vae-blur" / "00000.png")
    with pytest.raises(OSError, match="No space left"):
        evaluate.main(["enrol", "--ckpt_path", str(copied), "--name", "vae-new", "--images", image])
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "gan-grid", "--images", "x"], "that of a trained source"),
        (["--remove", "vae-new"], "no enrolled source 'vae-new', expected one of none"),
    ],
)
def test_mistakes_of_enrolment_are_one_line(copied, arguments, message):
    with pytest.raises(SystemExit, match=message):
        evaluate.main(["enrol", "--ckpt_path", str(copied), *arguments])


def test_enrolment_needs_a_name_and_images_or_another_task(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["enrol", "--ckpt_path", "x", "--name", "vae-new"])
    assert "give --name and --images, or --remove NAME, or --list" in capsys.readouterr().err
