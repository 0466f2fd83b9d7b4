"""Tables made of what a real training and its test leave: cost, content, clusters."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import yaml
from attributor_runs import write_config

import train
from lightning_modules.cli.compare import compare
from lightning_modules.reporting.run_files import read_metrics


@pytest.fixture(scope="module")
def run(gm_root, tmp_path_factory):
    """Logistic regression trained on even numbers, tested on all."""
    folder = tmp_path_factory.mktemp("content")
    paths = sorted(path.relative_to(gm_root).as_posix() for path in gm_root.glob("*-*/*.png"))
    rows = [(path, path.partition("/")[0], "even" if int(path[-5]) % 2 == 0 else "odd") for path in paths]
    pd.DataFrame(rows, columns=["path", "source", "number"]).to_csv(folder / "index.csv", index=False)
    where = {"column": "number", "values": ["even"], "test": "all"}
    data = {"index_file": str(folder / "index.csv"), "train_where": where, "cache_dir": str(folder / "cache")}
    model = {"representation": "radial_spectrum", "network": "logistic", "controls": []}
    model |= {"stem": "auto", "learning_rate": None}
    config = write_config(folder, gm_root, data=data, model=model)
    train.main(["--config", str(config), "--run_dir", str(folder / "run")])
    return folder / "run"


def test_accuracy_by_content(run):
    (table,) = compare(["--table", "one_semantic", str(run)]).grids
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text().splitlines()]
    right, counts = Counter(), Counter()
    for row in rows:
        kind = "even" if int(row["file"][-5]) % 2 == 0 else "odd"
        counts[kind] += 1
        right[kind] += row["predicted"] == row["source"]
    (name,) = table.rows
    for column, kind in (("the others", "odd"), ("odd", "odd"), ("the same", "even"), ("even", "even")):
        assert table.cells[name, column].mean == pytest.approx(right[kind] / counts[kind])
        assert table.cells[name, column].single.n == counts[kind]
    assert table.cells[name, "test images of others"] == counts["odd"]


def test_cost_of_the_training(run):
    table = compare(["--table", "methods", str(run)])
    costs = next(grid for grid in table.grids if grid.title == "Cost of training").cells
    (minutes,) = [value for (_, column), value in costs.items() if column == "minutes"]
    recorded = json.loads((run / "provenance.json").read_text())["training_cost"]
    assert minutes.value == pytest.approx(recorded["wall_seconds"] / 60)
    assert recorded["processor_seconds"] > 0


def test_clusters_of_committed_features(run, tmp_path):
    sources = [name for name in ("gan-grid", "score-noise", "vae-blur") if f"test/recall/{name}" in read_metrics(run)]
    designs = {name: {"upsampling": "nearest" if name == "vae-blur" else "linear", "skip": "none"} for name in sources}
    file = tmp_path / "designs.yaml"
    file.write_text(yaml.safe_dump(designs))
    table = compare(["--table", "clusters", str(run), "--designs", str(file)])
    images, of_sources = table.grids[:2]
    label = images.rows[0]
    assert {column for _, column in images.cells} == {"upsampling"}  # all skips are alike
    assert 0 <= images.cells[label, "upsampling"].mean <= 1
    assert images.cells[label, "upsampling"].single.n == sum(
        read_metrics(run)[f"test/recall/{name}"].n for name in sources
    )
    assert of_sources.cells[label, "upsampling"].single.n == 3
    assert np.isfinite(of_sources.cells[f"{label}: choices shuffled", "upsampling"].mean)
