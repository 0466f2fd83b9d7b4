from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lightning_modules.metrics.intervals import TRAINING_IMAGES, Estimate, proportion
from lightning_modules.reporting.compare import compare_runs
from lightning_modules.reporting.findings import TrainingState
from lightning_modules.reporting.run_files import read_metrics, write_json, write_metrics


def run(
    folder: Path,
    accuracy: float,
    *,
    seed: int = 0,
    representation: str = "artifact",
    experiment: str | None = None,
    **details: Any,
) -> Path:
    folder.mkdir()
    config = {
        "seed_everything": seed,
        "trainer": {
            "enable_progress_bar": seed == 0,
            "max_epochs": 2,
            "default_root_dir": str(folder),
            "callbacks": [{"init_args": {"dirpath": str(folder)}}],
        },
        "model": {"class_path": "Attributor", "init_args": {"representation": representation, "model_seed": seed}},
        "data": {"init_args": {"root": "data", "seed": 0}},
        "ckpt_path": str(folder / "last.ckpt"),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    metrics = {
        "test/accuracy": Estimate(accuracy, 0.0, 1.0, 100, "wilson 95%"),
        "test/recall/real": Estimate(accuracy / 2, 0.0, 1.0, 50, "wilson 95%"),
        "test/fdr": Estimate(10 * accuracy, None, None, 100, "none", {"n_per_half": 25, "d": 8, **details}),
    }
    write_metrics(folder / "metrics.json", metrics)
    if experiment is not None:
        (folder / "provenance.json").write_text(json.dumps({"experiment": experiment}))
    return folder


def test_seeds_of_one_experiment_are_averaged(tmp_path: Path):
    accuracies = [0.71, 0.74, 0.69]
    folders = [run(tmp_path / f"a{seed}", accuracy, seed=seed) for seed, accuracy in enumerate(accuracies)]
    folders.insert(1, run(tmp_path / "b", 0.5, representation="raw"))
    artifact, raw = compare_runs(folders).groups
    found = artifact.metrics["test/accuracy"]
    assert found.mean == pytest.approx(np.mean(accuracies))
    assert found.std == pytest.approx(np.std(accuracies, ddof=1))
    assert found.seeds == 3
    assert (raw.metrics["test/accuracy"].mean, raw.metrics["test/accuracy"].std) == (0.5, None)
    assert (artifact.label, raw.label) == ("representation=artifact", "representation=raw")
    assert dict(raw.settings) == {"model.init_args.representation": "raw"}


def test_another_split_is_another_experiment(tmp_path: Path):
    first, second = run(tmp_path / "a", 0.7), run(tmp_path / "b", 0.6, seed=1)
    config = yaml.safe_load((second / "config.yaml").read_text())
    config["data"]["init_args"]["seed"] = 5
    (second / "config.yaml").write_text(yaml.safe_dump(config))
    assert [group.label for group in compare_runs([first, second]).groups] == ["seed=0", "seed=5"]


def test_names_of_experiments_label_the_rows(tmp_path: Path):
    folders = [
        run(tmp_path / "a", 0.7, experiment="attribution/rgb"),
        run(tmp_path / "b", 0.6, representation="raw", experiment="attribution/raw"),
    ]
    assert [group.label for group in compare_runs(folders).groups] == ["attribution/rgb", "attribution/raw"]
    folders.append(run(tmp_path / "c", 0.5, representation="nearest", experiment="attribution/raw"))
    assert [group.label for group in compare_runs(folders).groups] == [
        "attribution/rgb",
        "attribution/raw (representation=raw)",
        "attribution/raw (representation=nearest)",
    ]
    assert compare_runs(folders[:1]).groups[0].label == "attribution/rgb"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (("/a/b/grid.yaml", "/a/b/other.yaml"), ("grid.yaml", "other.yaml")),
        (("/a/x/grid.yaml", "/a/y/grid.yaml"), ("/a/x/grid.yaml", "/a/y/grid.yaml")),
        (("raw", "nearest"), ("raw", "nearest")),
    ],
)
def test_files_are_told_by_their_names_where_these_differ(tmp_path, values, told):
    folders = [run(tmp_path / str(place), 0.5, representation=value) for place, value in enumerate(values)]
    assert [group.label for group in compare_runs(folders).groups] == [f"representation={each}" for each in told]


def test_a_repeated_evaluation_counts_once(tmp_path: Path):
    folders = [run(tmp_path / "train", 0.7), run(tmp_path / "again", 0.7), run(tmp_path / "seed1", 0.8, seed=1)]
    comparison = compare_runs([*folders, folders[0]])
    (group,) = comparison.groups
    assert group.metrics["test/accuracy"].seeds == 2
    assert group.metrics["test/accuracy"].mean == pytest.approx(0.75)
    assert any("again repeats" in note for note in comparison.notes)


def test_one_seed_with_two_results_is_an_error(tmp_path: Path):
    folders = [run(tmp_path / "one", 0.7), run(tmp_path / "two", 0.71)]
    with pytest.raises(ValueError, match=r"one and .*two have the same settings and seed_everything 0, but different"):
        compare_runs(folders)


def test_markdown_reads_back(tmp_path: Path):
    folders = [run(tmp_path / str(seed), accuracy, seed=seed) for seed, accuracy in enumerate([0.70, 0.72])]
    lines = compare_runs([*folders, run(tmp_path / "raw", 0.5, representation="a|b")]).to_markdown().splitlines()
    assert lines[0] == "| experiment | seeds | test/accuracy | test/fdr |"
    assert lines[1] == "|---|---:|---:|---:|"
    assert lines[2] == "| representation=artifact | 2 | 71.0 ± 1.4\u00a0% | 7.10 ± 0.14 |"
    # of one seed, the interval over images
    assert lines[3] == "| representation=a\\|b | 1 | 50.0\u00a0% (0.0 to 100.0\u00a0%) | 5.00 |"


def test_csv_holds_every_metric_in_full_precision(tmp_path: Path):
    folders = [run(tmp_path / str(seed), accuracy, seed=seed) for seed, accuracy in enumerate([1 / 3, 2 / 7])]
    comparison = compare_runs([*folders, run(tmp_path / "raw", 0.5, representation="raw")])
    rows = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    assert len(rows) == 6
    seen = "model.init_args.representation"
    row = next(row for row in rows if row["metric"] == "test/accuracy" and row[seen] == "artifact")
    assert float(row["mean"]) == math.fsum([1 / 3, 2 / 7]) / 2
    assert float(row["std"]) == pytest.approx(np.std([1 / 3, 2 / 7], ddof=1), rel=1e-15)
    assert (row["low"], row["high"]) == ("", "")  # two seeds: a spread
    alone = next(row for row in rows if row["metric"] == "test/accuracy" and row[seen] == "raw")
    assert (alone["std"], float(alone["low"]), float(alone["high"])) == ("", 0.0, 1.0)


def test_metrics_can_be_chosen(tmp_path: Path):
    comparison = compare_runs([run(tmp_path / "a", 0.7)])
    assert comparison.metric_names() == ["test/accuracy", "test/fdr"]
    assert comparison.metric_names(["test/recall/*"]) == ["test/recall/real"]
    with pytest.raises(ValueError, match=r"no metric matches 'val/\*'; the runs have test/accuracy"):
        comparison.to_markdown(["val/*"])


def test_html_page_holds_table_and_runs(tmp_path: Path):
    comparison = compare_runs([run(tmp_path / "a", 0.7), run(tmp_path / "b", 0.5, representation="raw")])
    comparison.write_html(tmp_path / "comparison.html")
    text = (tmp_path / "comparison.html").read_text()
    for part in ("representation=artifact", "70.0\u00a0%", "50.0\u00a0%", str(tmp_path / "b")):
        assert part in text


def test_fdr_of_other_conditions_is_flagged(tmp_path: Path):
    same = [run(tmp_path / "a", 0.7), run(tmp_path / "b", 0.5, representation="raw")]
    assert not compare_runs(same).notes
    notes = compare_runs([*same, run(tmp_path / "c", 0.5, representation="random", n_per_half=50)]).notes
    assert notes == ["test/fdr was computed with n_per_half = 25, 50: these do not compare."]


def test_metric_that_some_seeds_lack(tmp_path: Path):
    folders = [run(tmp_path / str(seed), 0.5 + seed / 10, seed=seed) for seed in range(3)]
    write_metrics(folders[0] / "metrics.json", {"test/accuracy": Estimate(0.5, None, None, 9, "none")})
    undefined = {"test/accuracy": Estimate(math.nan, None, None, 0, "none")}
    write_metrics(folders[1] / "metrics.json", undefined)
    (group,) = compare_runs(folders).groups
    assert group.metrics["test/accuracy"].seeds == 2
    assert group.metrics["test/accuracy"].mean == pytest.approx(0.6)
    assert group.metrics["test/fdr"].seeds == 1
    assert "7.00 (1 of 3 seeds)" in compare_runs(folders).to_markdown()


def test_folders_that_are_no_runs_are_all_named(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    broken = run(tmp_path / "broken", 0.5)
    (broken / "config.yaml").write_text("a: [")
    unsafe = run(tmp_path / "unsafe", 0.5)
    (unsafe / "config.yaml").write_text("a: !!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match="3 of 5 folders cannot be compared") as caught:
        compare_runs([tmp_path / "empty", tmp_path / "absent", broken, unsafe, run(tmp_path / "good", 0.5)])
    message = str(caught.value)
    assert "absent is no folder" in message
    assert message.count("is no YAML") == 2
    assert "good" not in message
    with pytest.raises(ValueError, match="name at least one"):
        compare_runs([])
    with pytest.raises(ValueError, match=r"empty is no evaluated run: config\.yaml and metrics\.json missing"):
        compare_runs([tmp_path / "empty"])


def test_folders_without_an_evaluation_are_left_aside_beside_runs(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (aside,) = compare_runs([tmp_path / "empty", run(tmp_path / "good", 0.5)]).unfinished
    assert str(aside).startswith(f"{tmp_path / 'empty'} holds no evaluation")


def test_a_contaminated_test_is_told_before_anything_else(tmp_path: Path):
    bad = run(tmp_path / "bad", 0.9)
    write_metrics(bad / "metrics.json", {**read_metrics(bad), TRAINING_IMAGES: proportion(3, 4)})
    notes = compare_runs([bad]).notes
    assert notes[0].startswith(f"{bad}: Contaminated test: 75.0")


def test_runs_of_unfinished_trainings_are_named(tmp_path: Path):
    finished, unfinished, unknown = (run(tmp_path / name, 0.7, seed=seed) for seed, name in enumerate("abc"))
    for folder, epochs in ((finished, 10), (unfinished, 3)):
        state = TrainingState(epochs, 10, 60 * epochs, -1, False)
        write_json(folder / "provenance.json", {"experiment": "e", "training": state})
    (note,) = compare_runs([finished, unfinished, unknown]).notes
    assert note == f"{unfinished} is of an unfinished training: the weights are those after epoch 3 of 10."
