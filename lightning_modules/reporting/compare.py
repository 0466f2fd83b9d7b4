"""Several runs side by side: tables, robustness curves, differences; runs that differ in their seed alone are one.

Reads run folders alone and needs neither torch nor matplotlib.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.reporting import comparability
from lightning_modules.reporting import comparison_tables as tables
from lightning_modules.reporting.curve_families import Family, curve_families
from lightning_modules.reporting.differences import Difference, differences
from lightning_modules.reporting.experiments import Group, Spread, group_runs
from lightning_modules.reporting.figures.curve_svg import STYLE, curve_markup
from lightning_modules.reporting.formatting import markdown_rows
from lightning_modules.reporting.long_table import CLEAN, Unfinished
from lightning_modules.reporting.page import Block, Details, Drawing, Section, Summary, Table, render_report
from lightning_modules.reporting.runs import read_runs

__all__ = ["Comparison", "Group", "Spread", "compare_runs"]


@dataclass(frozen=True)
class Comparison:
    """What `compare_runs` found."""

    groups: Sequence[Group]  # one row each, in the order their first run was given
    notes: Sequence[str] = ()  # what a reader has to know before comparing the rows
    unfinished: Sequence[Unfinished] = ()  # evaluations that are left aside

    @functools.cached_property
    def families(self) -> list[Family]:
        """Robustness curves, a family for each metric."""
        return curve_families(self.groups)

    @functools.cached_property
    def differences(self) -> list[Difference]:
        """Every experiment less the first."""
        return differences(self.groups)

    @property
    def warnings(self) -> list[str]:
        """Notes, and the evaluations that are left aside."""
        return [*self.notes, *map(str, self.unfinished)]

    def metric_names(self, patterns: Sequence[str] | None = None) -> list[str]:
        """Metrics that some group has and a shell pattern matches, sorted; None leaves out those of less interest.

        Raises:
            ValueError: a pattern matches no metric.
        """
        return tables.metric_names(self.groups, patterns)

    def to_table(self, patterns: Sequence[str] | None = None, *, sortable: bool = False) -> Table:
        """Experiments by metric as mean ± standard deviation over seeds; shares in percent."""
        return tables.results_table(self.groups, self.metric_names(patterns), sortable=sortable)

    def to_markdown(self, patterns: Sequence[str] | None = None, *, whole: bool = False) -> str:
        """The table, and differences, in Markdown, notes below; `whole`: with every strength, and that part too."""
        lines = _markdown(self.to_table(patterns))
        if whole:
            for family in self.families:
                lines += ["", f"## {family.title}", "", *_markdown(tables.curve_table(family))]
        found = [one for one in self.differences if whole or (patterns is None and _is_main(one))]
        if found:
            lines += ["", f"## Differences from {found[0].base}", "", *_markdown(tables.difference_table(found))]
        return "\n".join([*lines, *(f"Note: {note}" for note in self.warnings)]) + "\n"

    def to_csv(self, patterns: Sequence[str] | None = ("*",)) -> str:
        """One line per group and metric: experiment, settings that differ, metric, its spread; full precision."""
        return tables.metrics_csv(self.groups, self.metric_names(patterns))

    def files(self, patterns: Sequence[str] | None = None) -> dict[str, str]:
        """Every file but the page, by name."""
        return {
            "comparison.md": self.to_markdown(patterns, whole=True),
            "comparison.csv": self.to_csv(),
            "conditions.csv": tables.conditions_csv(self.groups),
            "differences.csv": tables.differences_csv(self.differences),
        }

    def write_html(self, path: Path, patterns: Sequence[str] | None = None) -> None:
        """A self-contained page: tables that sort and filter, curves, differences, every number, the runs."""
        count = sum(len(group.runs) for group in self.groups)
        sections = [
            Section("Results", [self.to_table(patterns, sortable=True)]),
            self._curves("Robustness", [family for family in self.families if family.main]),
            self._curves("Robustness of controls", [family for family in self.families if not family.main]),
            self._differences(),
            Section("Every number", [Details("Every number as a table", tables.numbers_table(self.groups))]),
            Section("Runs", [self._runs()]),
        ]
        render_report(
            path,
            title="Comparison of runs",
            summary=Summary(
                f"{_counted(count, 'run')} of {_counted(len(self.groups), 'experiment')}; runs that differ in their "
                "seed alone share a row.",
                warnings=self.warnings,
            ),
            sections=[section for section in sections if section is not None],
            style=STYLE,
        )

    def _curves(self, title: str, families: Sequence[Family]) -> Section | None:
        if not families:
            return None
        blocks: list[Block] = []
        for family in families:
            blocks.append(Drawing(family.title, curve_markup(family)))
            blocks.append(Details(f"{family.title} as a table", tables.curve_table(family)))
        return Section(title, blocks, _READING)

    def _differences(self) -> Section | None:
        if not self.differences:
            return None
        main = [one for one in self.differences if _is_main(one)]
        blocks: list[Block] = [tables.difference_table(main or self.differences, sortable=True)]
        if main and len(main) < len(self.differences):
            every = tables.difference_table(self.differences, sortable=True)
            blocks.append(Details("Under every condition", every))
        return Section(f"Differences from {self.groups[0].label}", blocks)

    def _runs(self) -> Table:
        rows = [[group.label, run.seed, str(run.folder), "finished"] for group in self.groups for run in group.runs]
        rows += [["", "", str(one.folder), f"{one.done:,} of {one.blocks:,} blocks"] for one in self.unfinished]
        return Table(["experiment", "seed", "folder", "evaluation"], rows, sortable=True)


_READING = (
    "Attacks grow stronger to the right; images without attack stand at the left end. Whiskers: 95 % intervals, over "
    "images for one seed, over seeds for several."
)


def compare_runs(run_folders: Iterable[Path | str]) -> Comparison:
    """Read runs, put those that differ in their seed alone together, and average their metrics over seeds.

    Two runs with the same settings, seed and metrics (a training run and a later evaluation of its checkpoint, or the
    same on other devices) count once; unfinished evaluations are left aside. Folders hold `config.yaml` and
    `metrics.json`.

    Raises:
        ValueError: some folders are no runs (all of them are named), none is finished, or two runs of one seed have
            different numbers.
    """
    runs, aside = read_runs([Path(folder) for folder in run_folders])
    groups, repetitions = group_runs(runs)
    return Comparison(groups, repetitions + comparability.notes(groups), aside)


def _is_main(difference: Difference) -> bool:
    return difference.result.attack == CLEAN or not difference.result.on_curve


def _markdown(table: Table) -> list[str]:
    shown = [[" ".join(part for part in cell if part) for cell in row] for row in table.shown]
    return [*markdown_rows(table.columns, shown), *(["", table.caption] if table.caption else [])]


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
