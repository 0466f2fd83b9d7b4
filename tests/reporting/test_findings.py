from __future__ import annotations

import json

import pytest

from lightning_modules.metrics.intervals import Estimate, proportion
from lightning_modules.reporting.findings import (
    TrainingState,
    fdr_conditions,
    terminal_lines,
    trivial_finding,
    warnings_of,
    worst_condition,
)


def results(accuracy: float = 0.6, trivial: float = 0.4, fdr: float = 2.0, **details) -> dict[str, Estimate]:
    told = {"what": "mean spectrum, 17 rings", "chance": 0.125, **details}
    return {
        "test/accuracy_macro": Estimate(accuracy, accuracy - 0.03, accuracy + 0.03, 960, "wilson (mover) 95%"),
        "test/trivial/spectrum/accuracy": Estimate(trivial, trivial - 0.03, trivial + 0.03, 960, "wilson 95%", told),
        "test/fdr": Estimate(fdr, 1.5, 2.5, 960, "jackknife", {"n_per_half": 60, "d": 2048, "seeds": 10}),
        "test/fdr_null": Estimate(1.0, 0.9, 1.1, 960, "range", {"shuffles": 20}),
    }


def plain(sentences: list[str]) -> list[str]:
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences]


def test_nothing_is_said_of_a_sound_test():
    assert warnings_of(results(), TrainingState(10, 10, 100, -1, False)) == []
    assert warnings_of(results(), None) == []
    assert warnings_of({}, None) == []  # of a fingerprint, say


@pytest.mark.parametrize(
    ("trivial", "verb"), [(0.5699, None), (0.57, "comes up to"), (0.63, "comes up to"), (0.64, "beats")]
)
def test_a_trivial_feature_within_the_interval_or_above_is_named(trivial, verb):
    told = plain(warnings_of(results(accuracy=0.6, trivial=trivial), None))
    if verb is None:
        assert told == []
    else:
        assert told == [
            f"A trivial feature {verb} the attributor: logistic regression on mean spectrum, 17 rings reaches "
            f"{100 * trivial:.1f} %, the attributor 60.0 % (57.0 to 63.0 %) (mean over sources). What the attributor "
            "has learned may be no more than that."
        ]


def test_a_leaking_file_format_is_named_as_such():
    (told,) = warnings_of(results(trivial=0.9, file=True, what="file format"), None)
    assert "a vote on the files' file format reaches" in told


def test_the_best_trivial_feature_stands_beside_chance():
    (told,) = plain([trivial_finding(results())])
    assert told == "best trivial feature (mean spectrum, 17 rings): 40.0 % (37.0 to 43.0 %), n = 960, chance 12.5 %"
    assert trivial_finding({}) is None


def test_an_fdr_that_shuffled_labels_give_as_well():
    (told,) = warnings_of(results(fdr=1.05), None)
    assert told == (
        "FDR 1.05 is what shuffled labels give as well (0.900 to 1.10): with 60 images a distance, the features do not "
        "tell the sources apart."
    )
    assert fdr_conditions(results()) == (
        "each distance from 60 images, d = 2,048, 10 halvings; with labels shuffled 1.00 (0.900 to 1.10)"
    )


@pytest.mark.parametrize(
    ("state", "warning"),
    [
        (TrainingState(3, 10, 300, -1, False), "after epoch 3 of 10."),
        (TrainingState(0, 10, 7, -1, False), "after epoch 0 of 10."),
        (TrainingState(3, -1, 300, 1000, False), "after step 300 of 1,000."),
        (TrainingState(3, -1, 300, -1, False), "after epoch 3 of no limit."),
        (TrainingState(10, 10, 300, -1, False), None),
        (TrainingState(3, 10, 300, 300, False), None),  # the limit of steps came first
        (TrainingState(3, 10, 300, -1, True), None),  # early stopping
        (TrainingState(0, 0, 0, -1, False), None),  # a fingerprint whose decoder needs no training
    ],
)
def test_an_unfinished_training_is_named(state, warning):
    told = warnings_of(results(), state)
    assert told == ([f"Unfinished training: the weights are those {warning}"] if warning else [])
    assert TrainingState.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize("entry", [None, {}, {"epochs": 3}, "epoch 3"])
def test_what_older_files_hold_is_no_state(entry):
    assert TrainingState.from_json(entry) is None


def test_the_worst_attack_is_told():
    results = {"test/accuracy": proportion(9, 10)}
    assert worst_condition(results) is None
    for name, right in (("jpeg_50", 5), ("noise_0.1", 2)):
        results |= {f"test/{name}/accuracy": proportion(right, 10), f"test/{name}/changed_images": proportion(10, 10)}
    assert worst_condition(results) == ("test/noise_0.1/accuracy", 2)
    told = terminal_lines(results, ("test/accuracy",), None)
    assert any(line.startswith("test/noise_0.1/accuracy: 20.0") and "the least of 2 attacks" in line for line in told)
