"""Comparing evaluated run folders: what counts as one experiment, differences, and what a reader is told."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest
from evaluated_runs import attributor_run, fingerprint_run, make_earlier, unfinish

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.compare import compare_runs
from lightning_modules.reporting.long_table import Result, read_results, results_csv
from lightning_modules.reporting.run_files import read_metrics, write_metrics

TWO = {"devices": 2, "strategy": "ddp"}


def of(comparison, metric: str, attack: str = "clean", part: str | None = None):
    found = [
        one
        for one in comparison.differences
        if (one.result.metric, one.result.attack) == (metric, attack) and part in (None, one.result.part)
    ]
    assert len(found) == 1
    return found[0]


# --- what is one experiment


def test_runs_on_other_devices_count_once_and_their_equality_is_told(tmp_path):
    one = fingerprint_run(tmp_path / "one")
    two = fingerprint_run(tmp_path / "two", machine={**TWO, "num_nodes": 2, "accelerator": "gpu"})
    comparison = compare_runs([one, two])
    (group,) = comparison.groups
    assert [run.folder for run in group.runs] == [one]
    (note,) = comparison.notes
    assert note.startswith(f"{two} repeats {one} with data.init_args.num_workers 2 in place of 1, ")
    assert "trainer.devices 2 in place of 1" in note
    assert "trainer.strategy ddp in place of auto" in note
    assert note.endswith("all 108 numbers are the same, and it is counted once.")


def test_numbers_that_devices_have_changed_are_told(tmp_path):
    one, two = fingerprint_run(tmp_path / "one"), fingerprint_run(tmp_path / "two", machine=TWO)
    metrics = json.loads((two / "metrics.json").read_text())
    metrics["test/clean/bit_accuracy"]["value"] += 0.001
    (two / "metrics.json").write_text(json.dumps(metrics))
    (note,) = compare_runs([one, two]).notes
    assert "and 1 of 108 numbers differ (test/clean/bit_accuracy: 0.9" in note
    assert note.endswith(f"they should not. {one} is counted.")


def test_numbers_of_weights_that_were_trained_apart_may_differ(tmp_path):
    one, two = fingerprint_run(tmp_path / "one"), fingerprint_run(tmp_path / "two", machine=TWO, skill=0.9)
    facts = json.loads((two / "provenance.json").read_text())
    facts["hashes"]["checkpoint"]["hash"] = "9" * 64
    (two / "provenance.json").write_text(json.dumps(facts))
    (note,) = compare_runs([one, two]).notes
    assert note.endswith(f"their weights were trained apart. {one} is counted.")
    same = fingerprint_run(tmp_path / "same", skill=0.9)
    (same / "provenance.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"give one of them, for their checkpoints are others \(111111111111, 9{12}\)"):
        compare_runs([one, same])


def test_a_strategy_with_arguments_is_a_strategy(tmp_path):
    strategy = {"class_path": "DDPStrategy", "init_args": {"find_unused_parameters": True}}
    one, two = fingerprint_run(tmp_path / "one"), fingerprint_run(tmp_path / "two", machine={"strategy": strategy})
    assert len(compare_runs([one, two]).groups) == 1


def test_another_precision_is_another_experiment(tmp_path):
    one, two = fingerprint_run(tmp_path / "one"), fingerprint_run(tmp_path / "two", machine={"precision": "16-mixed"})
    assert len(compare_runs([one, two]).groups) == 2


def test_unfinished_evaluations_are_left_aside(tmp_path):
    finished = fingerprint_run(tmp_path / "finished")
    killed = unfinish(fingerprint_run(tmp_path / "killed", decoder="hybrid"), 3)
    comparison = compare_runs([killed, finished])
    assert [group.label for group in comparison.groups] == ["fingerprint/amortised"]
    assert "killed is unfinished: 3 of 4 blocks are done; it is left aside." in comparison.warnings[0]
    assert comparison.warnings[0] in comparison.to_markdown()
    with pytest.raises(ValueError, match=r"found no finished evaluation: .*3 of 4 blocks"):
        compare_runs([killed])


def test_seeds_have_a_mean_and_a_spread_under_every_condition(tmp_path):
    runs = [fingerprint_run(tmp_path / str(seed), seed=seed) for seed in range(3)]
    (group,) = compare_runs(runs).groups
    values = [read_metrics(run)["test/jpeg_50/bit_accuracy"].value for run in runs]
    spread = group.results["marked", "jpeg_50", "bit_accuracy"]
    assert (spread.mean, spread.std) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    half = 4.302653 * np.std(values, ddof=1) / math.sqrt(3)  # Student's with two degrees of freedom
    assert spread.estimate().high == pytest.approx(np.mean(values) + half)


# --- differences


def test_runs_of_the_same_images_are_paired(tmp_path):
    runs = [fingerprint_run(tmp_path / name, decoder=name, skill=skill) for name, skill in (("a", 0.95), ("b", 0.98))]
    comparison = compare_runs(runs)
    bits = of(comparison, "bit_accuracy", "jpeg_50").estimate
    rows = [[json.loads(line) for line in (run / "rows.jsonl").open()] for run in runs]
    shares = [np.array([row["matching_bits"]["jpeg_50"] for row in each]) / 32 for each in rows]
    gains = shares[1] - shares[0]
    assert bits.value == pytest.approx(gains.mean())
    assert bits.high - bits.value == pytest.approx(1.971957 * gains.std(ddof=1) / math.sqrt(200), rel=1e-5)
    assert bits.interval == "paired over images, student t 95%"
    whole = of(comparison, "attribution_accuracy").estimate
    right = [np.array([row["matching_bits"]["clean"] == 32 for row in each]) for each in rows]
    assert whole.details == {"gained": int((~right[0] & right[1]).sum()), "lost": int((right[0] & ~right[1]).sum())}
    assert of(comparison, "tpr_at_1e-6").estimate.interval == "paired over images, agresti-min 95%"
    assert of(comparison, "fid").estimate.low is None


def test_rates_by_log_odds_and_by_bits_are_both_paired(tmp_path):
    """Today's from p-values, those of an earlier version from matching bits: here the same images are positive."""
    gains = []
    for by_bits in (False, True):
        folders = [tmp_path / f"{name}-{by_bits}" for name in ("a", "b")]
        runs = [
            fingerprint_run(folder, decoder=name, skill=skill, by_bits=by_bits)
            for folder, name, skill in zip(folders, ("a", "b"), (0.9, 0.95), strict=True)
        ]
        gains.append(of(compare_runs(runs), "tpr_at_1e-6", "jpeg_50").estimate)
    assert gains[0] == gains[1]
    assert gains[0].interval == "paired over images, agresti-min 95%"
    assert gains[0].value != 0


@pytest.mark.parametrize("one_row_a_condition", [False, True])
def test_attributors_are_paired_by_their_images(tmp_path, one_row_a_condition):
    options = {"one_row_a_condition": one_row_a_condition}
    runs = [attributor_run(tmp_path / name, representation=name, **options) for name in ("artifact", "raw")]
    comparison = compare_runs(runs)
    assert of(comparison, "accuracy", "jpeg_50", "test").estimate.interval == "paired over images, agresti-min 95%"
    macro = of(comparison, "accuracy_macro", "noise_0.05").estimate
    assert macro.interval == "paired over images, agresti-min by source, mover 95%"
    assert macro.value == pytest.approx(
        read_metrics(runs[1])["test/noise_0.05/accuracy_macro"].value
        - read_metrics(runs[0])["test/noise_0.05/accuracy_macro"].value
    )
    # rows say nothing of controls, and FDR is no mean over images
    assert of(comparison, "accuracy", part="control/raw").estimate.interval == "independent, mover 95%"
    assert of(comparison, "fdr").estimate.interval == "independent, mover 95%"


def test_rows_that_do_not_give_the_reported_number_are_not_used(tmp_path):
    runs = [attributor_run(tmp_path / name, representation=name) for name in ("artifact", "raw")]
    lines = (runs[1] / "rows.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    row["predicted"]["clean"] = "real-x" if row["predicted"]["clean"] == row["source"] else row["source"]
    (runs[1] / "rows.jsonl").write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    comparison = compare_runs(runs)
    assert of(comparison, "accuracy", part="test").estimate.interval == "independent, mover 95%"
    assert of(comparison, "accuracy", "jpeg_50", "test").estimate.interval.startswith("paired over images")


def test_other_images_or_no_rows_make_independent_differences(tmp_path):
    first = attributor_run(tmp_path / "first")
    other = attributor_run(tmp_path / "other", representation="raw", first_image=100)
    bare = attributor_run(tmp_path / "bare", representation="random")
    (bare / "rows.jsonl").unlink()
    comparison = compare_runs([first, other, bare])
    intervals = {one.estimate.interval for one in comparison.differences}
    assert intervals == {"independent, mover 95%"}
    assert any(
        note
        == "attribution/artifact and attribution/raw were tested on other images: 240 and 240, 140 of them in both."
        for note in comparison.notes
    )


def test_fingerprints_of_other_latents_are_not_paired(tmp_path):
    runs = [fingerprint_run(tmp_path / "a"), fingerprint_run(tmp_path / "b", decoder="hybrid", seed=1)]
    comparison = compare_runs(runs)
    assert of(comparison, "bit_accuracy").estimate.interval == "independent, mover 95%"


def test_shared_seeds_are_paired(tmp_path):
    runs = []
    for seed in range(3):
        runs.append(fingerprint_run(tmp_path / f"a{seed}", decoder="a", seed=seed, skill=0.93))
        runs.append(fingerprint_run(tmp_path / f"b{seed}", decoder="b", seed=seed, skill=0.96))
    found = of(compare_runs(runs), "bit_accuracy").estimate
    values = [[read_metrics(run)["test/clean/bit_accuracy"].value for run in runs[place::2]] for place in (0, 1)]
    gains = np.subtract(values[1], values[0])
    assert (found.n, found.interval) == (3, "paired over seeds, student t 95%")
    assert found.value == pytest.approx(gains.mean())
    assert found.high - found.value == pytest.approx(4.302653 * gains.std(ddof=1) / math.sqrt(3))


def test_differences_are_told_in_points_with_their_sign(tmp_path):
    runs = [fingerprint_run(tmp_path / name, decoder=name, skill=skill) for name, skill in (("a", 0.98), ("b", 0.93))]
    comparison = compare_runs(runs)
    lines = comparison.to_markdown().splitlines()
    assert "## Differences from fingerprint/a" in lines
    line = next(line for line in lines if line.startswith("| Bit accuracy | marked |"))
    assert "| −" in line
    assert "| yes | 200 | paired over images, student t 95% |" in line
    assert not any("jpeg_50" in line for line in lines)  # strengths are on the curves
    assert any("jpeg_50" in line for line in comparison.to_markdown(whole=True).splitlines())


# --- what a reader is told


def test_other_sources_are_told(tmp_path):
    runs = [
        attributor_run(tmp_path / "a"),
        attributor_run(tmp_path / "b", representation="raw", sources=("gan-a", "x")),
    ]
    notes = compare_runs(runs).notes
    assert any("tell other sources apart (4 and 2; not in both: real-x, score-c, vae-b, x)" in note for note in notes)


def test_other_attack_seeds_are_told(tmp_path):
    kinds = {"kinds": ["jpeg"]}
    runs = [
        fingerprint_run(tmp_path / "a", **kinds),
        fingerprint_run(tmp_path / "b", decoder="b", attack_seed=9, **kinds),
    ]
    notes = compare_runs(runs).notes
    assert any(
        "drew their attacks from other seeds (paper-noise, jpeg_95, jpeg_90, jpeg_80 and 5 more)" in note
        for note in notes
    )


def test_other_data_and_other_numbers_of_images_are_told(tmp_path):
    one = fingerprint_run(tmp_path / "one")
    other = fingerprint_run(tmp_path / "other", decoder="hybrid", images=100)
    facts = json.loads((other / "provenance.json").read_text())
    facts["hashes"]["data"] = "9" * 64
    (other / "provenance.json").write_text(json.dumps(facts))
    notes = compare_runs([one, other]).notes
    assert any("their hashes are 222222222222 and 999999999999" in note for note in notes)
    assert any("were tested on 200 and 100 images of the part marked." in note for note in notes)
    assert any("computed with n_fake = 100, 200" in note for note in notes)  # distances depend on it


def test_runs_that_can_be_compared_have_no_notes(tmp_path):
    runs = [fingerprint_run(tmp_path / name, decoder=name) for name in ("a", "b")]
    assert compare_runs(runs).warnings == []


# --- files


def test_files_hold_every_strength_and_difference(tmp_path):
    runs = [fingerprint_run(tmp_path / name, decoder=name) for name in ("a", "b")]
    comparison = compare_runs(runs)
    files = comparison.files()
    assert sorted(files) == ["comparison.csv", "comparison.md", "conditions.csv", "differences.csv"]
    rows = list(csv.DictReader(io.StringIO(files["conditions.csv"])))
    assert len(rows) == 2 * 27 * 4  # experiments, conditions, metrics
    row = next(row for row in rows if (row["attack"], row["metric"]) == ("jpeg_50", "bit_accuracy"))
    assert (row["part"], row["kind"], row["strength"], row["seeds"]) == ("marked", "jpeg", "50", "1")
    assert float(row["mean"]) == read_metrics(runs[0])["test/jpeg_50/bit_accuracy"].value
    differences = list(csv.DictReader(io.StringIO(files["differences.csv"])))
    assert len(differences) == 27 * 4
    assert differences[0]["less"] == "fingerprint/a"


def test_earlier_versions_compare_with_todays(tmp_path):
    today = fingerprint_run(tmp_path / "today", decoder="a")
    earlier = make_earlier(fingerprint_run(tmp_path / "earlier", decoder="b"))
    comparison = compare_runs([today, earlier])
    assert of(comparison, "bit_accuracy", "jpeg_50").estimate.interval == "paired over images, student t 95%"


def test_the_long_table_reads_back_bit_for_bit(tmp_path):
    results = [
        Result("marked", "jpeg_50", "jpeg", 50.0, "3", "bit_accuracy", Estimate(1 / 3, 0.1, 2 / 3, 7, "95%")),
        Result("quality", "clean", "clean", None, "", "fid", Estimate(math.nan, None, None, 0, "95%")),
    ]
    (tmp_path / "results.csv").write_text(results_csv(results))
    first, second = read_results(tmp_path, {})
    assert first == results[0]
    assert (second.key, second.strength, second.estimate.low) == (("quality", "clean", "fid"), None, None)
    assert math.isnan(second.estimate.value)


def test_a_broken_table_is_named(tmp_path):
    run = fingerprint_run(tmp_path / "a")
    (run / "results.csv").write_text("part,attack\nmarked,clean\n")
    with pytest.raises(ValueError, match=r"results.csv has no columns \['kind'"):
        compare_runs([run])
    table = (fingerprint_run(tmp_path / "b") / "results.csv").read_text().splitlines()
    (run / "results.csv").write_text(
        "\n".join([table[0], table[1].replace("marked,clean,clean,", "marked,clean,clean,x")])
    )
    with pytest.raises(ValueError, match=r"results.csv, line 2: could not convert"):
        compare_runs([run])


def test_many_metrics_stand_in_rows(tmp_path):
    runs = [fingerprint_run(tmp_path / name, decoder=name) for name in ("a", "b")]
    for run in runs:
        metrics = read_metrics(run)
        extra = {f"test/paper-blur/{name}": metrics[f"test/paper-noise/{name}"] for name in ("bit_accuracy", "fid")}
        write_metrics(run / "metrics.json", metrics | extra)
    assert compare_runs(runs).to_markdown().splitlines()[0] == "| metric | fingerprint/a | fingerprint/b |"
