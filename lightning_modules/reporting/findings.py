"""What a reader must not miss, in whole sentences: the same in the terminal, on the report page and in comparisons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning_modules.metrics.intervals import TRAINING_IMAGES, Estimate
from lightning_modules.reporting.formatting import format_estimate, format_interval, format_number, format_percent


@dataclass(frozen=True)
class TrainingState:
    """How far a training had come when its weights were written."""

    epochs: int  # finished
    max_epochs: int  # asked for; -1 for no limit
    steps: int  # finished, of the optimiser
    max_steps: int  # asked for; -1 for no limit
    stopped: bool  # whether a rule of the training itself, such as early stopping, had ended it

    @property
    def finished(self) -> bool:
        """Whether a limit or a rule of its own had ended it; a training without limits never is."""
        return self.stopped or 0 <= self.max_epochs <= self.epochs or 0 <= self.max_steps <= self.steps

    @property
    def progress(self) -> str:
        """`"epoch 3 of 10"`, or `"step 300 of 1,000"` where steps alone are limited."""
        if self.max_epochs < 0 and self.max_steps >= 0:
            return f"step {self.steps:,} of {self.max_steps:,}"
        return f"epoch {self.epochs:,} of {f'{self.max_epochs:,}' if self.max_epochs >= 0 else 'no limit'}"

    @property
    def warning(self) -> str | None:
        """What has to be said of weights of an unfinished training; None of those of a finished one."""
        return None if self.finished else f"Unfinished training: the weights are those after {self.progress}."

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: object) -> TrainingState | None:
        """The inverse of `to_json`; None for anything else, such as what older files hold."""
        if not isinstance(entry, dict) or set(entry) != set(cls.__dataclass_fields__):
            return None
        return cls(**entry)


def best_trivial(results: Mapping[str, Estimate]) -> tuple[str, Estimate] | None:
    """The entry `test/trivial/NAME/accuracy` of the greatest value, with its NAME; None where there is none."""
    found = {name: re.fullmatch(r"test/trivial/(.*)/accuracy", name) for name in results}
    known = [(match[1], results[name]) for name, match in found.items() if match is not None]
    return max(known, key=lambda entry: entry[1].value, default=None)


def fdr_conditions(results: Mapping[str, Estimate]) -> str:
    """What FDR depends on and what shuffled labels give: `"each distance from 60 images, d = 2,048 ..."`."""
    facts, null = results["test/fdr"].details, results.get("test/fdr_null")
    told = f"each distance from {facts['n_per_half']:,} images, d = {facts['d']:,}, {facts['seeds']} halvings"
    if left_out := facts.get("left_out"):
        told += f", {left_out:,} further images left out"
    return told if null is None else f"{told}; with labels shuffled {format_estimate(null)}"


def fdr_warning(results: Mapping[str, Estimate]) -> str | None:
    """What has to be said of an FDR that shuffled labels give as well; None of one above."""
    fdr, null = results.get("test/fdr"), results.get("test/fdr_null")
    if fdr is None or null is None or null.high is None or fdr.value > null.high:
        return None
    return (
        f"FDR {format_number(fdr.value)} is what shuffled labels give as well ({format_interval(null)}): with "
        f"{fdr.details['n_per_half']:,} images a distance, the features do not tell the sources apart."
    )


def trivial_finding(results: Mapping[str, Estimate]) -> str | None:
    """The best trivial feature, beside chance; None where none was measured."""
    if (best := best_trivial(results)) is None:
        return None
    estimate = best[1]
    return (
        f"best trivial feature ({estimate.details['what']}): {format_estimate(estimate, percent=True)}, "
        f"n = {estimate.n:,}, chance {format_percent(estimate.details['chance'])}"
    )


def trivial_warning(results: Mapping[str, Estimate]) -> str | None:
    """What has to be said of an attributor that a trivial feature comes up to; None of one that is above all of them.

    Compared is the mean accuracy over sources, which that of trivial features is too; a feature comes up to it where
    its value is not below the interval.
    """
    best, own = best_trivial(results), results.get("test/accuracy_macro")
    if best is None or own is None or own.low is None or best[1].value < own.low:
        return None
    estimate = best[1]
    above = own.high is not None and estimate.value > own.high
    what = estimate.details["what"]
    reader = f"a vote on the files' {what}" if estimate.details.get("file") else f"logistic regression on {what}"
    return (
        f"A trivial feature {'beats' if above else 'comes up to'} the attributor: {reader} reaches "
        f"{format_percent(estimate.value)}, the attributor {format_estimate(own, percent=True)} (mean over sources). "
        "What the attributor has learned may be no more than that."
    )


def contamination_warning(results: Mapping[str, Estimate]) -> str | None:
    """What has to be said of a test on images of the training; None of one on unseen images alone."""
    share = results.get(TRAINING_IMAGES)
    if share is None or not share.value:
        return None
    return (
        f"Contaminated test: {format_percent(share.value)} of the {share.n:,} test images are among those that the "
        "attributor was trained on. Its numbers say nothing of unseen images."
    )


def unchanged_sentence(results: Mapping[str, Estimate], attacks: Sequence[str]) -> str:
    """Which attacks have left every image, or some, as it was: their numbers are those of clean images; "" for none."""
    found = {name: results.get(f"test/{name}/changed_images") for name in attacks}
    changed = {name: estimate.value for name, estimate in found.items() if estimate is not None}
    told = []
    if none := [name for name, share in changed.items() if share == 0]:
        told.append(f"No pixel of any image was changed by {', '.join(none)}: the numbers are those of clean images.")
    if some := [f"{name} ({format_percent(1 - share)})" for name, share in changed.items() if 0 < share < 1]:
        told.append(f"Images left as they were: {', '.join(some)}.")
    return " ".join(told)


def warnings_of(results: Mapping[str, Estimate], training: TrainingState | None) -> list[str]:
    """Everything that has to be said of a test, most important first."""
    told = [contamination_warning(results), training.warning if training is not None else None]
    told += [trivial_warning(results), fdr_warning(results)]
    return [sentence for sentence in told if sentence is not None]


def worst_condition(results: Mapping[str, Estimate]) -> tuple[str, int] | None:
    """The accuracy under the attack that leaves least of it, by its name, and the number of attacks; None without."""
    attacked = [name.rpartition("/")[0] for name in results if name.endswith("/changed_images")]
    metric = "bit_accuracy" if "test/clean/bit_accuracy" in results else "accuracy"
    names = [f"{prefix}/{metric}" for prefix in attacked if f"{prefix}/{metric}" in results]
    return (min(names, key=lambda name: results[name].value), len(names)) if names else None


def terminal_lines(
    results: Mapping[str, Estimate], headlines: Sequence[str], training: TrainingState | None
) -> list[str]:
    """What a test prints of its results: the headlines that it has, the best trivial feature, the warnings."""
    lines = []
    for name in [name for name in headlines if name in results]:
        shown = format_estimate(results[name], percent=name.endswith(("accuracy", "tpr_at_1e-6")))
        conditions = f"; {fdr_conditions(results)}" if name == "test/fdr" else ""
        lines.append(f"{name}: {shown}, n = {results[name].n:,}{conditions}")
    if (worst := worst_condition(results)) is not None:
        name, count = worst
        shown = format_estimate(results[name], percent=True)
        lines.append(f"{name}: {shown}, n = {results[name].n:,}, the least of {count} attacks")
    if (finding := trivial_finding(results)) is not None:
        lines.append(finding)
    return lines + [f"warning: {warning}" for warning in warnings_of(results, training)]
