"""Sources that are held out: in no training and no validation, tested as a part of their own."""

from __future__ import annotations

import pytest
import torch

from datamodules import GMDataModule
from datamodules.images.problems import GMDataError

SPLIT = {"train_fraction": 0.6, "val_fraction": 0.15, "test_fraction": 0.25, "format_audit": "off"}


def module(root, tmp_path, unknown=None, **settings):
    data = GMDataModule(str(root), cache_dir=str(tmp_path / "cache"), unknown_sources=unknown, **SPLIT, **settings)
    data.prepare_data()
    data.setup()
    return data


def test_they_are_no_class_and_only_tested(gm_root, tmp_path):
    whole, data = module(gm_root, tmp_path), module(gm_root, tmp_path, ["vae-blur"])
    assert data.sources == ["gan-grid", "real-fashion", "score-noise"]
    assert data.unknown_sources == ["vae-blur"]
    assert data.counts("unknown") == {"vae-blur": 10}
    assert "vae-blur 10" in data.describe()["unknown"]
    for split in ("train", "val", "test"):
        expected = {name: count for name, count in whole.counts(split).items() if name != "vae-blur"}
        assert data.counts(split) == expected
        theirs = whole.plan.rows.query("split == @split and source != 'vae-blur'")["path"].tolist()
        assert data.plan.rows.query("split == @split")["path"].tolist() == theirs
    assert sum(data.training_files["format"].values()) == sum(data.counts("train").values())
    assert set(data.images("unknown").labels.tolist()) == {3}
    assert torch.equal(data.content_ids("manifold"), whole.content_ids("manifold"))


def test_a_test_has_them_as_a_part_of_its_own(gm_root, tmp_path):
    data = module(gm_root, tmp_path, ["vae-blur", "gan-grid"])
    parts = {}
    for batch in data.test_dataloader():
        parts.setdefault(batch["part"], []).extend(batch["label"].tolist())
    assert {part: sorted(set(labels)) for part, labels in parts.items()} == {"test": [0, 1], "unknown": [2, 3]}
    assert data.evaluation_settings() != module(gm_root, tmp_path, ["vae-blur"]).evaluation_settings()


def test_one_split_file_serves_every_choice(gm_root, tmp_path):
    file = tmp_path / "split.json"
    module(gm_root, tmp_path, ["vae-blur"], split_file=str(file))
    before = file.read_bytes()
    assert module(gm_root, tmp_path, split_file=str(file)).counts("train")["vae-blur"] == 24
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("unknown", "message"),
    [
        (["vae-blurr"], "'vae-blurr' is no source: did you mean vae-blur"),
        (["vae-blur", "gan-grid", "score-noise"], r"leave 1 \(real-fashion\)"),
    ],
)
def test_sources_that_cannot_be_held_out(gm_root, tmp_path, unknown, message):
    with pytest.raises(GMDataError, match=message):
        module(gm_root, tmp_path, unknown)
