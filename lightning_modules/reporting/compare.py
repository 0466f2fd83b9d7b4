"""Several runs in one table: runs that differ in their seed alone are one experiment, shown as mean and spread."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lightning_modules.metrics.intervals import Estimate, mean_and_std
from lightning_modules.reporting.formatting import MISSING, format_estimate, format_spread, markdown_rows
from lightning_modules.reporting.page import Cell, Details, Section, Summary, Table, render_report
from lightning_modules.reporting.runs import SEED, Run, read_runs

# in the CSV, but too many or too constant for a table to read
_MINOR = ("*/recall/*", "*/chance", "*/majority", "*/fdr_null", "*/trivial/*")
_CAPTION = "Mean ± sample standard deviation over seeds; of one seed alone, its interval over images in brackets."
_SHARES = ("accuracy", "accuracy_macro", "recall", "chance", "majority")
_CONDITIONS = ("n_per_half", "d")  # what FDR depends on


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for one seed) of a metric over `seeds` seeds."""

    mean: float
    std: float | None
    seeds: int
    single: Estimate | None = None  # the estimate itself, whose interval is over images, of one seed alone


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str  # what the group is called in the table
    settings: Mapping[str, Any]  # those in which the groups of the comparison differ, with this group's values
    runs: Sequence[Run]  # one per seed, by seed
    metrics: Mapping[str, Spread]  # over the runs in which each metric is defined


@dataclass(frozen=True)
class Comparison:
    """The table of `compare_runs`."""

    groups: Sequence[Group]  # one row each, in the order their first run was given
    notes: Sequence[str] = ()  # what a reader has to know before comparing the rows

    def metric_names(self, patterns: Sequence[str] | None = None) -> list[str]:
        """Metrics that some group has and a shell pattern matches, sorted; None leaves out recalls and chance levels.

        Raises:
            ValueError: a pattern matches no metric.
        """
        names = sorted({name for group in self.groups for name in group.metrics})
        if patterns is None:
            return [name for name in names if not any(fnmatchcase(name, minor) for minor in _MINOR)]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(f"no metric matches {pattern!r}; the runs have {', '.join(names)}")
        return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]

    def to_table(self, patterns: Sequence[str] | None = None) -> Table:
        """Rows of groups, columns of metrics as mean ± standard deviation over seeds; shares in percent."""
        names = self.metric_names(patterns)
        rows: list[list[Cell]] = [
            [group.label, len(group.runs), *(_shown(name, group.metrics.get(name), len(group.runs)) for name in names)]
            for group in self.groups
        ]
        return Table(["experiment", "seeds", *names], rows, _CAPTION, right=names)

    def to_markdown(self, patterns: Sequence[str] | None = None) -> str:
        """`to_table` as a Markdown table, notes below it."""
        table = self.to_table(patterns)
        notes = [f"Note: {note}" for note in self.notes]
        return "\n".join([*markdown_rows(table.columns, table.rows), "", table.caption, *notes]) + "\n"

    def to_csv(self, patterns: Sequence[str] | None = ("*",)) -> str:
        """One line per group and metric: experiment, settings that differ, metric, its spread; full precision."""
        settings = sorted({key for group in self.groups for key in group.settings})
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["experiment", *settings, "metric", "mean", "std", "low", "high", "seeds"])
        for group in self.groups:
            values = [_text(group.settings.get(key)) for key in settings]
            for name in self.metric_names(patterns):
                if name in group.metrics:
                    spread = group.metrics[name]
                    ends = (None, None) if spread.single is None else (spread.single.low, spread.single.high)
                    numbers = ["" if one is None else repr(one) for one in (spread.mean, spread.std, *ends)]
                    writer.writerow([group.label, *values, name, *numbers, spread.seeds])
        return text.getvalue()

    def write_html(self, path: Path, patterns: Sequence[str] | None = None) -> None:
        """The table as a self-contained page, with the runs behind each row folded away."""
        runs = [[group.label, run.seed, str(run.folder)] for group in self.groups for run in group.runs]
        count = sum(len(group.runs) for group in self.groups)
        sections = [
            Section("Results", [self.to_table(patterns)], " ".join(self.notes)),
            Section("Runs", [Details("Run folders", Table(["experiment", "seed", "folder"], runs))]),
        ]
        text = f"{count} runs of {len(self.groups)} experiments; runs that differ in their seed alone share a row."
        render_report(path, title="Comparison of runs", summary=Summary(text), sections=sections)


def compare_runs(run_folders: Iterable[Path | str]) -> Comparison:
    """Read runs, put those that differ in their seed alone together, and average their metrics over seeds.

    Two runs with the same settings, seed and metrics (a training run and a later evaluation of its checkpoint) count
    once. Folders hold `config.yaml` and `metrics.json`.

    Raises:
        ValueError: some folders are no runs (all of them are named), or two runs of one seed have different numbers.
    """
    groups: dict[str, list[Run]] = {}
    notes: list[str] = []
    for run in read_runs([Path(folder) for folder in run_folders]):
        same = groups.setdefault(json.dumps(run.settings, sort_keys=True, default=str), [])
        first = next((other for other in same if other.seed == run.seed), None)
        if first is None:
            same.append(run)
        elif first.folder.resolve() == run.folder.resolve() or _equal(first.metrics, run.metrics):
            notes.append(f"{run.folder} repeats {first.folder} (same settings, seed and numbers) and is counted once.")
        else:
            raise ValueError(
                f"{first.folder} and {run.folder} have the same settings and {SEED} {run.seed}, but different numbers; "
                "give one of them, or find out why they differ"
            )
    members = list(groups.values())
    differing = _differing([runs[0].settings for runs in members])
    compared = []
    for runs, label in zip(members, _labels(members, differing), strict=True):
        settings = {key: runs[0].settings.get(key) for key in differing}
        compared.append(Group(label, settings, sorted(runs, key=lambda run: run.seed), _spreads(runs)))
    return Comparison(compared, notes + _condition_notes(members) + _training_notes(members))


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose value is not the same in all."""
    keys = sorted({key for each in settings for key in each})
    return [key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings)]


def _labels(members: Sequence[Sequence[Run]], differing: Sequence[str]) -> list[str]:
    """The experiments' names where they tell the groups apart, else the settings in which they differ."""
    names = [runs[0].name for runs in members]
    if len(members) == 1:
        return [names[0] or members[0][0].folder.resolve().name]
    if all(names) and len(set(names)) == len(names):
        return names
    labels = []
    for name, runs in zip(names, members, strict=True):
        settings = ", ".join(f"{_short(key, differing)}={_text(runs[0].settings.get(key))}" for key in differing)
        labels.append(f"{name} ({settings})" if name and len(set(names)) > 1 else settings)
    return labels


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a dotted key, or all of it where another key ends alike."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _spreads(runs: Sequence[Run]) -> dict[str, Spread]:
    spreads = {}
    for name in sorted({name for run in runs for name in run.metrics}):
        defined = [run.metrics[name] for run in runs if name in run.metrics]
        found = [estimate for estimate in defined if not math.isnan(estimate.value)]  # a recall without images, say
        if found:
            spread = mean_and_std([estimate.value for estimate in found])
            spreads[name] = Spread(*spread, len(found), found[0] if len(found) == 1 else None)
    return spreads


def _condition_notes(members: Sequence[Sequence[Run]]) -> list[str]:
    """A warning for each metric that depends on conditions which are not the same in all runs."""
    notes = []
    metrics = [run.metrics for runs in members for run in runs]
    for name in sorted({name for each in metrics for name in each}):
        for condition in _CONDITIONS:
            details = [each[name].details for each in metrics if name in each]
            found = sorted({str(each[condition]) for each in details if condition in each})
            if len(found) > 1:
                notes.append(f"{name} was computed with {condition} = {', '.join(found)}: these do not compare.")
    return notes


def _training_notes(members: Sequence[Sequence[Run]]) -> list[str]:
    """A warning for each run whose weights are those of an unfinished training."""
    return [
        f"{run.folder} is of an unfinished training: the weights are those after {run.training.progress}."
        for runs in members
        for run in runs
        if run.training is not None and not run.training.finished
    ]


def _equal(*metrics: Mapping[str, Estimate]) -> bool:
    plain = ({name: found.to_json() for name, found in each.items()} for each in metrics)
    return len({json.dumps(each, sort_keys=True) for each in plain}) == 1


def _shown(name: str, spread: Spread | None, seeds: int) -> str:
    if spread is None:
        return MISSING
    share = any(part in _SHARES for part in name.split("/"))
    over_seeds = format_spread(spread.mean, spread.std, percent=share)
    text = over_seeds if spread.single is None else format_estimate(spread.single, percent=share)
    return text if spread.seeds == seeds else f"{text} ({spread.seeds} of {seeds} seeds)"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
