"""`evaluate.py compare --table`: what each table holds, against the run folders themselves."""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from evaluated_runs import SOURCES, attributor_run, fingerprint_run, unfinish
from told_runs import tell_evaluation, tell_metrics, tell_provenance, tell_rows, tell_settings

from lightning_modules.cli.compare import compare
from lightning_modules.metrics.intervals import Estimate, proportion, wilson
from lightning_modules.reporting.result_tables.registry import ABOUT, TABLES
from lightning_modules.reporting.run_files import read_metrics

ROOT = Path(__file__).parents[2]
COST = {
    "wall_seconds": 120.0,
    "processor_seconds": 90.0,
    "peak_bytes": 2**30,
    "peak_device_bytes": None,
    "processes": 1,
}


def runs_of(folder, *representations, seeds=(0, 1, 2), **options):
    return [
        attributor_run(folder / f"{name}{seed}", seed=seed, representation=name, **options)
        for name in representations
        for seed in seeds
    ]


def table(name, *runs, **options):
    extra = [word for option, value in options.items() for word in (f"--{option}", *map(str, value))]
    return compare(["--table", name, *map(str, runs), *extra])


def grid(found, title):
    return next(each for each in found.grids if each.title == title)


def values(runs, metric):
    return [read_metrics(run)[metric].value for run in runs]


def test_every_table_is_described():
    assert set(ABOUT) == set(TABLES)
    for name in TABLES:
        assert callable(TABLES.load(name))


def test_methods_are_means_over_seeds(tmp_path):
    runs = runs_of(tmp_path, "artifact", "raw")
    other = [tell_settings(run, data__root="data/gm-cifar10") for run in runs_of(tmp_path / "b", "raw", skill=0.7)]
    for run in (*runs, *other):
        trivial = proportion(100, 240, what="colour histogram")
        chance = Estimate(0.25, None, None, 240, "none")
        tell_metrics(run, {"test/trivial/colour_histogram/accuracy": trivial, "test/chance": chance})
        tell_metrics(run, {"test/fdr_null": Estimate(1.02, 0.9, 1.1, 240, "range")})
    for seed, run in enumerate(runs[:3]):
        tell_provenance(run, training_cost={**COST, "wall_seconds": 120.0 + 60 * seed})
    found = table("methods", *runs, *other)
    cells = grid(found, "Accuracy and FDR").cells
    for metric, title in (("test/accuracy", "accuracy"), ("test/fdr", "FDR")):
        for data, own in (("gm-small", runs[3:]), ("gm-cifar10", other)):
            spread = cells["attribution/raw", f"{data}: {title}"]
            assert spread.mean == pytest.approx(statistics.mean(values(own, metric)), abs=1e-12)
            assert spread.std == pytest.approx(statistics.stdev(values(own, metric)), abs=1e-12)
            assert spread.seeds == 3
    assert ("attribution/artifact", "gm-cifar10: accuracy") not in cells
    assert cells["attribution/raw", "gm-small: FDR, labels shuffled"].mean == 1.02
    assert cells["chance", "gm-small: accuracy"].value == 0.25
    assert cells["trivial: colour histogram", "gm-cifar10: accuracy"].value == pytest.approx(100 / 240)
    assert cells["ManiFPT RGB (paper)", "gm-cifar10: accuracy"].value == pytest.approx(0.695)
    assert ("ManiFPT RGB (paper)", "gm-small: accuracy") not in cells
    costs = grid(found, "Cost of training").cells
    assert costs["attribution/artifact, gm-small", "minutes"].mean == pytest.approx(3)
    assert costs["attribution/artifact, gm-small", "memory in GiB"].value == 1
    sizes = grid(found, "Data sets").cells
    assert (sizes["gm-small", "test images"], sizes["gm-small", "sources"]) == (240, 4)


def test_the_papers_numbers_stand_apart_from_other_data_sets(tmp_path):
    found = table("methods", attributor_run(tmp_path / "a"))
    assert grid(found, "The paper's numbers").cells["Durall20", "GM-FFHQ: FDR"].value == 37.9
    own = grid(found, "Accuracy and FDR")
    assert [row for row in own.rows if "(paper)" in row] == []
    single = own.cells["attribution/artifact", "gm-small: accuracy"].single  # of one seed, its interval over images
    assert (single.low, single.high) == pytest.approx(wilson(single.value * 240, 240))


def test_ours_and_the_papers_of_one_method_stand_together(tmp_path):
    run = attributor_run(tmp_path / "a", experiment="attribution/baselines/durall2020")
    rows = grid(table("methods", tell_settings(run, data__root="/d/GM_FFHQ")), "Accuracy and FDR").rows
    assert rows[:2] == ["attribution/baselines/durall2020", "Durall20 (paper)"]
    assert rows.count("Durall20 (paper)") == 1


def test_the_same_settings_on_two_epochs_numbers_are_two_methods(tmp_path):
    short, long = runs_of(tmp_path, "raw", seeds=[0]), runs_of(tmp_path / "b", "raw", seeds=[0], skill=0.95)
    tell_settings(long[0], trainer__max_epochs=99)
    rows = grid(table("methods", *short, *long), "Accuracy and FDR").rows
    assert rows == ["max_epochs=10", "max_epochs=99"]


def test_a_later_test_of_the_same_weights_counts_once(tmp_path):
    first, again = (attributor_run(tmp_path / name, kinds=kinds) for name, kinds in (("a", []), ("b", ["jpeg"])))
    tell_settings(first, model__test_attacks=[])
    tell_settings(again, model__test_attacks=["grid-jpeg"])
    found = table("methods", first, again)
    assert grid(found, "Accuracy and FDR").cells["attribution/artifact", "gm-small: seeds"] == 1
    assert any("are tests of one training" in note for note in found.notes)
    assert grid(table("robustness", first, again), "Accuracy, JPEG")  # the one with more numbers is shown


def test_robustness_has_conditions_by_strength_and_augmented_methods_below(tmp_path):
    augmented = runs_of(tmp_path, "raw", seeds=(0, 1), robustness=2.0)
    mixture = {"kind": "mixture", "attacks": [{"kind": "jpeg", "quality": [50, 90]}, "noise_0.05"]}
    for run in augmented:
        tell_settings(run, model__augmentation={"attack": mixture, "probability": 0.5})
    plain = runs_of(tmp_path, "artifact", seeds=(0, 1))
    found = table("robustness", *augmented, *plain)
    jpeg = grid(found, "Accuracy, JPEG")
    assert jpeg.columns[:4] == ["trained on", "clean", "jpeg 95", "jpeg 90"]
    assert grid(found, "FDR, noise").columns[1:4] == ["clean", "noise 0.01", "noise 0.02"]
    assert jpeg.rows == ["attribution/artifact", "attribution/raw"]
    assert [jpeg.cells[row, "trained on"] for row in jpeg.rows] == [
        "clean images",
        "mixture of jpeg, noise_0.05 (of 0.5)",
    ]
    mean = statistics.mean(values(augmented, "test/jpeg_50/accuracy"))
    assert jpeg.cells["attribution/raw", "jpeg 50"].mean == pytest.approx(mean, abs=1e-12)
    assert jpeg.cells["attribution/raw", "clean"].mean == pytest.approx(
        statistics.mean(values(augmented, "test/accuracy"))
    )
    presets = grid(found, "Accuracy, attacks of presets")
    assert "paper-noise" in presets.columns


def test_across_data_sets(tmp_path):
    own = runs_of(tmp_path, "raw", seeds=(0, 1), skill=0.95)
    across = runs_of(tmp_path / "b", "raw", seeds=(0, 1), skill=0.6)
    space = {"name": "family", "classes": ["gan", "real"], "left_out": [], "never_answered": ["vae-b"]}
    for run in across:
        tell_settings(run, data__root="data/gm-b", label_space="family")
        tell_evaluation(run, label_space={**space, "trained_on": "gm-small", "tested_on": "gm-b"})
        tell_metrics(run, {"test/chance": Estimate(0.5, None, None, 240, "none")})
    found = table("cross_dataset", *own, *across)
    accuracies = grid(found, "Accuracy")
    assert accuracies.columns == ["gm-small > gm-b, family", "gm-small, as trained"]
    cells = accuracies.cells
    for column, runs in zip(accuracies.columns, (across, own), strict=True):
        assert cells["attribution/raw", column].mean == pytest.approx(statistics.mean(values(runs, "test/accuracy")))
    assert cells["chance", "gm-small > gm-b, family"].value == 0.5
    assert grid(found, "Label spaces").cells["gm-small > gm-b, family", "never answered"] == "vae-b"
    with pytest.raises(SystemExit, match="no run was tested on another data set; test trained ones there"):
        table("cross_dataset", *own)


def test_one_kind_of_content(tmp_path):
    runs = runs_of(tmp_path, "raw", seeds=(0, 1))
    counts = {"bag": (30, 40), "dress": (55, 60), "shirt": (10, 20)}
    for extra, run in enumerate(runs):
        where = {"column": "garment", "values": ["dress"], "test": "all"}
        tell_evaluation(run, {"data": {"pictures": "a", "train_where": where}})
        tell_settings(run, data__train_where=where)
        found = {name: proportion(right + extra, n) for name, (right, n) in counts.items()}
        tell_metrics(run, {f"test/semantic/{name}/accuracy": one for name, one in found.items()})
    (shown,) = table("one_semantic", *runs).grids
    row = "attribution/raw, dress"
    assert shown.columns == [
        "trained on",
        "the others",
        "the same",
        "bag",
        "dress",
        "shirt",
        "test images of others",
        "seeds",
    ]
    assert shown.cells[row, "the others"].mean == pytest.approx((40 / 60 + 42 / 60) / 2)
    assert shown.cells[row, "the same"].mean == pytest.approx((55 / 60 + 56 / 60) / 2)
    assert shown.cells[row, "bag"].mean == pytest.approx((30 / 40 + 31 / 40) / 2)
    assert shown.cells[row, "test images of others"] == 60
    with pytest.raises(SystemExit, match="plain: trained on all content"):
        table("one_semantic", *runs, attributor_run(tmp_path / "plain"))


def paired(folder, right, seed=0, tie=False):
    """A run in which `right` images of each of the first two of five sources are told from those of the other."""
    names = ("gan-a", "gan-a-seed2", "gan-stylegan2", "gan-stylegan3", "real-x")
    run = attributor_run(folder, seed=seed, sources=names, per_source=20, kinds=[])
    tell_evaluation(run, {"sources": list(names)})

    def change(row):
        rest = dict.fromkeys(names, 0.05)
        number = row["index"] % 20
        if row["source"] in names[:2]:
            other = names[1 - names.index(row["source"])]
            high = row["source"] if number < right else other
            rest[high] = 0.4 if number % 2 else 0.3
            rest["real-x"] = 0.35
            if tie:
                rest[names[0]] = rest[names[1]] = 0.3
        return {**row, "attack": "clean", "probabilities": rest, "predicted": max(rest, key=rest.get)}

    return tell_rows(run, change)


def test_two_seeds_of_one_architecture(tmp_path):
    found = table("two_seeds", paired(tmp_path / "a", 15))
    scores = grid(found, "gan-a and gan-a-seed2")  # StyleGAN2 and StyleGAN3 are two architectures
    assert [each.title for each in found.grids] == [scores.title, "Who is taken for whom, gan-a and gan-a-seed2"]
    between = scores.cells["attribution/artifact", "accuracy between the two"].single
    assert (between.value, between.n) == (0.75, 40)
    assert (between.low, between.high) == pytest.approx(wilson(30, 40))
    assert scores.cells["attribution/artifact", "above chance"] == "yes"
    assert scores.cells["attribution/artifact", "named one of the two"].mean == pytest.approx(20 / 40)
    confusion = found.grids[1].cells
    row = "attribution/artifact: gan-a"
    assert [confusion[row, f"rather {name}"] for name in ("gan-a", "gan-a-seed2")] == [15, 5]
    assert [confusion[row, f"named {name}"] for name in ("gan-a", "gan-a-seed2", "another")] == [7, 3, 10]


def test_a_pair_by_name_over_seeds_and_ties(tmp_path):
    runs = [paired(tmp_path / f"{right}", right, seed) for seed, right in enumerate((9, 11))]
    found = table("two_seeds", *runs, sources=("gan-a", "gan-a-seed2"))
    accuracy = found.grids[0].cells["attribution/artifact", "accuracy between the two"]
    assert accuracy.mean == pytest.approx(0.5)
    assert accuracy.std == pytest.approx(statistics.stdev([9 / 20, 11 / 20]))
    assert found.grids[0].cells["attribution/artifact", "above chance"] == "no"
    tied = table("two_seeds", paired(tmp_path / "tie", 20, tie=True)).grids[0].cells
    assert tied["attribution/artifact", "accuracy between the two"].mean == 0.5
    for pair, message in (
        (("gan-a", "gan-b"), "no source gan-b"),
        (("gan-a", "gan-a"), "twice"),
    ):
        with pytest.raises(SystemExit, match=message):
            table("two_seeds", *runs, sources=pair)
    with pytest.raises(SystemExit, match=r"found no two sources of one architecture among \['gan-a', 'real-x'"):
        table("two_seeds", tell_evaluation(attributor_run(tmp_path / "b"), {"sources": list(SOURCES)}))


def test_files_terminal_and_page(tmp_path, capsys):
    runs = [*runs_of(tmp_path, "artifact", "raw", seeds=(0, 1)), unfinish(attributor_run(tmp_path / "killed"), 1)]
    table("methods", *runs, out=[tmp_path / "out"])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(tmp_path / "out")
    written = (tmp_path / "out" / "table.md").read_text()
    assert printed.startswith(written)
    assert "killed is unfinished: 1 of 4 blocks are done" in written
    assert "| attribution/raw | " in written
    with (tmp_path / "out" / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    (line,) = [one for one in lines if (one["row"], one["column"]) == ("attribution/raw", "gm-small: accuracy")]
    assert float(line["value"]) == statistics.mean(values(runs[2:4], "test/accuracy"))
    assert float(line["std"]) == statistics.stdev(values(runs[2:4], "test/accuracy"))
    page = (tmp_path / "out" / "table.html").read_text()
    assert "killed is unfinished" in page
    for title in ("Accuracy and FDR", "Data sets"):
        assert f"<h2>{title}</h2>" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "method", "RUN"], "found table 'method'; did you mean methods"),
        (["--table", "methods", "absent"], "absent is no folder"),
        (["--table", "methods", "KEYS"], "found no attributor in .*keys; this table is of attributors alone"),
        (["--table", "methods", "RUN", "--metrics", "x"], "leave out --metrics"),
        (["--table", "methods", "RUN", "--sources", "a", "b"], "--sources is of the table two_seeds"),
        (["--table", "robustness", "CLEAN"], "no run was tested under an attack"),
        (["--table", "clusters", "RUN"], "found design choices of 0 of the sources"),
        (["--table", "clusters", "RUN", "--designs", "absent.yaml"], "absent.yaml cannot be read"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, arguments, message):
    clean = attributor_run(tmp_path / "clean", kinds=[])
    results = (clean / "results.csv").read_text().splitlines()
    (clean / "results.csv").write_text("\n".join(line for line in results if "paper" not in line) + "\n")
    made = {
        "RUN": attributor_run(tmp_path / "run"),
        "CLEAN": clean,
        "KEYS": fingerprint_run(tmp_path / "keys", kinds=[]),
    }
    with pytest.raises(SystemExit, match=message) as caught:
        compare([str(made.get(word, word)) for word in arguments])
    assert "\n" not in str(caught.value)


def test_most_tables_need_neither_torch_nor_matplotlib(tmp_path):
    runs = [str(run) for run in runs_of(tmp_path, "raw", seeds=(0, 1))]
    code = (
        "import sys; from lightning_modules.cli.entry import run; "
        f"[run(['compare', '--table', name, *{runs!r}]) for name in ('methods', 'robustness')]; "
        "print('found', [name for name in ('torch', 'matplotlib', 'pandas', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "found []"


def test_rows_of_an_older_form_are_named(tmp_path):
    run = paired(tmp_path / "a", 10)
    tell_rows(run, lambda row: {name: value for name, value in row.items() if name != "probabilities"})
    with pytest.raises(SystemExit, match=r"rows.jsonl, line 1: found no row with source, predicted and probabilities"):
        table("two_seeds", run)
    (run / "rows.jsonl").unlink()
    with pytest.raises(SystemExit, match=r"found no .*rows.jsonl; write it again"):
        table("two_seeds", run)


def split_runs(folder, seeds=(0, 1, 2), **options):
    """Runs whose split has the training's seed, as with --seed_everything S --data.init_args.seed S."""
    runs = runs_of(folder, "raw", seeds=seeds, **options)
    for seed, run in zip(seeds, runs, strict=True):
        tell_settings(run, data__seed=seed)
        tell_evaluation(run, {"data": {"pictures": f"split {seed}"}}, data={"all images": "320, hash abc"})
    return runs


def test_splits_of_one_data_set_share_a_column(tmp_path):
    runs = split_runs(tmp_path)
    other = tell_evaluation(tell_settings(attributor_run(tmp_path / "x", representation="artifact"), data__seed=0))
    tell_evaluation(other, {"data": {"pictures": "split 0"}}, data={"all images": "320, hash abc"})
    found = table("methods", *runs, other)
    cells = grid(found, "Accuracy and FDR").cells
    raw = next(row for row in grid(found, "Accuracy and FDR").rows if "raw" in row)
    assert cells[raw, "gm-small: seeds"] == 3
    assert cells[raw, "gm-small: accuracy"].mean == pytest.approx(statistics.mean(values(runs, "test/accuracy")))
    for seed, run in enumerate(runs):
        tell_metrics(run, {"test/trivial/colour_histogram/accuracy": proportion(100 + 20 * seed, 240, what="colours")})
    trivial = grid(table("methods", *runs, other), "Accuracy and FDR").cells["trivial: colours", "gm-small: accuracy"]
    assert (trivial.mean, trivial.seeds) == (pytest.approx(120 / 240), 3)
    note = next(note for note in found.notes if "splits 0, 1, 2" in note)
    assert "of 0 alone" in note


def test_a_split_of_the_files_own_is_one_whatever_the_seed(tmp_path):
    """An index file with a column `split` has the same test images for every seed."""
    runs = split_runs(tmp_path)
    for seed, run in enumerate(runs):
        tell_evaluation(run, {"data": {"pictures": "the file's"}})
        tell_metrics(run, {"test/trivial/colour_histogram/accuracy": proportion(100 + seed, 240, what="colours")})
    found = table("methods", *runs)
    assert grid(found, "Accuracy and FDR").cells["trivial: colours", "gm-small: accuracy"].n == 240
    assert not any("splits" in note for note in found.notes)


def test_columns_do_not_depend_on_the_order_of_the_runs(tmp_path):
    runs = split_runs(tmp_path, seeds=(0, 1, 2, 3))
    for run, told in zip(runs, (None, "320, hash a", "320, hash b", "320, hash a"), strict=True):
        tell_evaluation(run, data={"all images": told})
    assert grid(table("methods", *runs), "Data sets").rows == ["gm-small (1)", "gm-small (2)"]
    assert grid(table("methods", *runs[1:], runs[0]), "Data sets").rows == ["gm-small (1)", "gm-small (2)"]


def test_one_training_seed_on_several_splits_is_one_method(tmp_path):
    runs = split_runs(tmp_path)
    for run in runs:
        tell_settings(run, seed_everything=0)
    found = grid(table("methods", *runs), "Accuracy and FDR")
    assert found.cells[found.rows[0], "gm-small: seeds"] == 3


def test_runs_of_versions_that_hash_no_data_set_go_by_the_number_of_images(tmp_path):
    runs = split_runs(tmp_path)
    tell_evaluation(runs[0], data={"all images": None})
    assert grid(table("methods", *runs), "Data sets").rows == ["gm-small"]


@pytest.mark.parametrize("told", ["321, hash abd", None])
def test_other_images_under_the_name_of_a_split_are_another_data_set(tmp_path, told):
    """By the hash of all images, or in runs without one, by their number."""
    runs = split_runs(tmp_path)
    if told is None:
        for run, count in zip(runs, ("cat 80", "cat 80", "cat 81"), strict=True):
            tell_evaluation(run, data={"test": count})
    else:
        tell_evaluation(runs[2], data={"all images": told})
    assert grid(table("methods", *runs), "Data sets").rows == ["gm-small (1)", "gm-small (2)"]


def test_json_of_the_evaluation_is_all_that_names_data(tmp_path):
    """Two data sets of one folder's name are two columns where the test images of one split differ."""
    runs = runs_of(tmp_path, "raw", seeds=(0, 1))
    for run, hashed in zip(runs, "ab", strict=True):
        tell_evaluation(run, {"data": {"pictures": hashed}})
    found = grid(table("methods", *runs), "Data sets")
    assert found.rows == ["gm-small (1)", "gm-small (2)"]
    assert json.loads((runs[0] / "evaluation.json").read_text())["settings"]["data"]["pictures"] == "a"
