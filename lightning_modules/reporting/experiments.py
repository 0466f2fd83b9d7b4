"""Runs put together: those that differ in their seed alone are one experiment, each number its mean and spread."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lightning_modules.metrics.intervals import Estimate, mean_and_std, student_half_width
from lightning_modules.reporting.formatting import format_number
from lightning_modules.reporting.long_table import Key, Result
from lightning_modules.reporting.runs import SEED, Run
from lightning_modules.reporting.settings_in_words import put_together

K = TypeVar("K")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for one seed) of a metric over `seeds` seeds."""

    mean: float
    std: float | None
    seeds: int
    single: Estimate | None = None  # the estimate itself, whose interval is over images, of one seed alone

    def estimate(self, confidence: float = 0.95) -> Estimate:
        """The mean with Student's interval over seeds; of one seed alone, its interval over images."""
        if self.single is not None:
            return self.single
        if self.std is None:
            return Estimate(self.mean, None, None, self.seeds, "none")
        half = student_half_width(self.std / math.sqrt(self.seeds), self.seeds - 1, confidence)
        return Estimate(self.mean, self.mean - half, self.mean + half, self.seeds, "student t over seeds 95%")


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str  # what the group is called in the table
    settings: Mapping[str, Any]  # those in which the groups of the comparison differ, with this group's values
    runs: Sequence[Run]  # one per seed, by seed
    metrics: Mapping[str, Spread]  # over the runs in which each metric is defined
    results: Mapping[Key, Spread] = field(default_factory=dict)  # the long table, likewise

    @property
    def conditions(self) -> dict[Key, Result]:
        """What each number of the long table is of, in order: that of the first run that has it."""
        found: dict[Key, Result] = {}
        for run in self.runs:
            for result in run.results:
                found.setdefault(result.key, result)
        return {key: result for key, result in found.items() if key in self.results}


def group_runs(runs: Iterable[Run]) -> tuple[list[Group], list[str]]:
    """Put runs that differ in their seed alone together; returns the experiments, and notes on runs that count once.

    Two runs with the same settings, seed and metrics (a training run and a later evaluation of its checkpoint, or the
    same on other devices) count once.

    Raises:
        ValueError: two runs of one seed, on the same devices, have different numbers.
    """
    groups: dict[str, list[Run]] = {}
    notes: list[str] = []
    for run in runs:
        same = groups.setdefault(json.dumps(run.settings, sort_keys=True, default=str), [])
        first = next((other for other in same if other.seed == run.seed), None)
        if first is None:
            same.append(run)
        else:
            notes.append(_repetition(first, run))
    members = list(groups.values())
    differing = _differing([each[0].settings for each in members])
    made = [
        Group(
            label,
            {key: each[0].settings.get(key) for key in differing},
            sorted(each, key=lambda run: run.seed),
            spreads([run.metrics for run in each]),
            spreads([{result.key: result.estimate for result in run.results} for run in each]),
        )
        for each, label in zip(members, _labels(members, differing), strict=True)
    ]
    return made, notes


def _repetition(first: Run, run: Run) -> str:
    """The note on a run whose settings and seed another one has already.

    Raises:
        ValueError: its numbers differ, and no other devices explain that.
    """
    again = first.folder.resolve() == run.folder.resolve()
    differing = [] if again else _different_numbers(first, run)
    moved = [] if again else _differing([first.machine, run.machine])
    where = ", ".join(f"{key} {text(run.machine.get(key))} in place of {text(first.machine.get(key))}" for key in moved)
    weights = [each.hashes.get("checkpoint", "") for each in (first, run)]
    trained_apart = all(weights) and weights[0] != weights[1]
    if differing and not moved:
        cause = f"their checkpoints are others ({weights[0][:12]}, {weights[1][:12]})" if trained_apart else ""
        raise ValueError(
            f"{first.folder} and {run.folder} have the same settings and {SEED} {run.seed}, but different numbers "
            f"({differing[0]}); give one of them, {f'for {cause}' if cause else 'or find out why they differ'}"
        )
    if differing:
        cause = "their weights were trained apart" if trained_apart else "they should not"
        return (
            f"{run.folder} is {first.folder} with {where}, and {len(differing)} of {len(run.metrics):,} numbers differ "
            f"({differing[0]}): {cause}. {first.folder} is counted."
        )
    if moved:
        numbers = f"all {len(run.metrics):,} numbers are the same"
        return f"{run.folder} repeats {first.folder} with {where}: {numbers}, and it is counted once."
    return f"{run.folder} repeats {first.folder} (same settings, seed and numbers) and is counted once."


def _different_numbers(first: Run, second: Run) -> list[str]:
    """Metrics whose entries are not the same, with both values; the largest relative difference first."""
    found = []
    for name in sorted({*first.metrics, *second.metrics}):
        one, other = first.metrics.get(name), second.metrics.get(name)
        if one is None or other is None:
            found.append((math.inf, f"{name} is in one of them alone"))
        elif json.dumps(one.to_json(), sort_keys=True) != json.dumps(other.to_json(), sort_keys=True):
            size = abs(one.value - other.value) / (abs(one.value) or 1.0)
            both = f"{format_number(one.value, 6)} and {format_number(other.value, 6)}"
            found.append((0.0 if math.isnan(size) else size, f"{name}: {both}"))
    return [told for _, told in sorted(found, key=lambda entry: -entry[0])]


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose value is not the same in all."""
    keys = sorted({key for each in settings for key in each})
    return [key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings)]


def _labels(members: Sequence[Sequence[Run]], differing: Sequence[str]) -> list[str]:
    """The experiments' names, and of those of one name the settings in which they differ."""
    names = [runs[0].name for runs in members]
    if len(members) == 1:
        return [names[0] or members[0][0].folder.resolve().name]
    labels = []
    for name, runs in zip(names, members, strict=True):
        of_name = [other for other, named in zip(members, names, strict=True) if named == name]
        alike = put_together([other[0].settings for other in of_name])
        if name and len(alike) == 1:
            labels.append(name)
            continue
        own, settings = _differing(alike), alike[next(n for n, other in enumerate(of_name) if other is runs)]
        values = {key: _last_part(text(settings.get(key))) for key in own}
        if len({str([_last_part(text(each.get(key))) for key in own]) for each in alike}) < len(alike):
            values = {key: text(settings.get(key)) for key in own}  # two files of one name
        told = ", ".join(f"{_short(key, differing)}={value}" for key, value in values.items())
        labels.append(f"{name} ({told})" if name and len(set(names)) > 1 else told)
    return labels


def _last_part(value: str) -> str:
    """The name of a file, of its path; other values as they are."""
    return value.rstrip("/").rpartition("/")[2] if re.fullmatch(r"\.{0,2}/?[\w.~/-]*/[\w.-]+/?", value) else value


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a dotted key, or all of it where another key ends alike."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def spreads(runs: Sequence[Mapping[K, Estimate]]) -> dict[K, Spread]:
    """Each number over the runs that have it."""
    found_spreads = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        defined = [run[name] for run in runs if name in run]
        found = [estimate for estimate in defined if not math.isnan(estimate.value)]  # a recall without images, say
        if found:
            spread = mean_and_std([estimate.value for estimate in found])
            found_spreads[name] = Spread(*spread, len(found), found[0] if len(found) == 1 else None)
    return found_spreads


def text(value: Any) -> str:
    """A setting as one reads it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
