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

