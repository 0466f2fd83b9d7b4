"""An attributor on a data set of other sources: numbers by families and by shared models, identity, mistakes."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from png_files import save_png

import evaluate
from datamodules.images.image_io import decode_image
from lightning_modules.cli.compare import compare


@pytest.fixture(scope="module")
def other(gm_root, tmp_path_factory):
    """The same images, of which one source has another name and another is a source more."""
    root = tmp_path_factory.mktemp("other") / "gm-other"
    shutil.copytree(gm_root, root, ignore=shutil.ignore_patterns(".gm_index"))
    (root / "vae-blur").rename(root / "vae-other")
    (root / "flow-new").mkdir()
    for file in sorted((gm_root / "gan-grid").iterdir()):
        save_png(root / "flow-new" / file.name, 255 - decode_image(file))
    return root


@pytest.fixture(scope="module")
def by_family(trained, other, tmp_path_factory):
    run = tmp_path_factory.mktemp("by_family") / "run"
    found = evaluate.main(["test", *across(trained, other, "family"), "--run_dir", str(run)])
    return run, found


def across(trained, other, space):
    return ["--ckpt_path", trained.checkpoint, "--data.init_args.root", str(other), "--label_space", space]


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return [row for row in rows if row["attack"] == "clean"]


def right_of(trained, classes):
    """Rightly named images by class, from the probabilities of the training's own test: an independent computation."""
    right, counts = Counter(), Counter()
    for row in rows_of(trained.run):
        sums = {name: sum(row["probabilities"][source] for source in own) for name, own in classes.items()}
        true = next((name for name, own in classes.items() if row["source"] in own), None)
        if true is not None:
            counts[true] += 1
            right[true] += max(sums, key=sums.get) == true
    return right, counts


def test_families(trained, by_family):
    run, found = by_family
    metrics = json.loads((run / "metrics.json").read_text())
    classes = {"gan": ["gan-grid"], "real": ["real-fashion"], "score": ["score-noise"], "vae": ["vae-blur"]}
    right, counts = right_of(trained, classes)
    assert metrics["test/accuracy"]["n"] == sum(counts.values())  # images of the flow are left out
    assert found["test/accuracy"] == pytest.approx(sum(right.values()) / sum(counts.values()))
    for name in classes:
        assert metrics[f"test/recall/{name}"]["value"] == pytest.approx(right[name] / counts[name])
    assert metrics["test/chance"]["value"] == 0.25
    assert not [name for name in metrics if "/trivial/" in name]  # of other images than the training's
    assert {row["source"] for row in rows_of(run)} == set(classes)


def test_shared_models(trained, other, tmp_path):
    found = evaluate.main(["test", *across(trained, other, "shared-model"), "--run_dir", str(tmp_path)])
    classes = {"gan-grid": ["gan-grid"], "real": ["real-fashion"], "score-noise": ["score-noise"]}
    right, counts = right_of(trained, classes)
    assert found["test/accuracy"] == pytest.approx(sum(right.values()) / sum(counts.values()))
    about = json.loads((tmp_path / "evaluation.json").read_text())
    told = about["report"]["label_space"]
    assert (told["trained_on"], told["tested_on"]) == ("gm-small", "gm-other")
    assert told["left_out"] == ["flow-new", "vae-other"]
    assert told["never_answered"] == ["vae-blur"]
    assert about["settings"]["label space"]["name"] == "shared-model"
    page = (tmp_path / "report.html").read_text()
    assert "shared-model: gan-grid, real, score-noise; trained on gm-small, tested on gm-other" in page
    for row in rows_of(tmp_path):
        assert sum(row["probabilities"].values()) == pytest.approx(1)


def test_the_table_and_another_space_in_the_same_folder(trained, other, by_family):
    run, _ = by_family
    table = compare(["--table", "cross_dataset", str(trained.run), str(run)])
    accuracies = table.grids[0]
    assert accuracies.columns == ["gm-small > gm-other, family", "gm-small, as trained"]
    assert len(accuracies.rows) == 2  # one method, and chance
    with pytest.raises(ValueError, match="label space"):
        evaluate.main(["test", *across(trained, other, "shared-model"), "--run_dir", str(run)])


def test_mistakes(trained, other, gm_root, tmp_path):
    with pytest.raises(ValueError, match="found label_space 'families'; did you mean family"):
        evaluate.main(["test", *across(trained, other, "families"), "--run_dir", str(tmp_path / "a")])
    large = tmp_path / "gm-large"
    for folder in ("gan-grid", "real-fashion"):
        (large / folder).mkdir(parents=True)
        for file in sorted((gm_root / folder).iterdir())[:20]:
            save_png(large / folder / file.name, np.kron(decode_image(file), np.ones((2, 2, 1), dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"found images of 64x64 px, expected 32x32 px.*data.init_args.resize"):
        evaluate.main(["test", *across(trained, large, "family"), "--run_dir", str(tmp_path / "b")])
