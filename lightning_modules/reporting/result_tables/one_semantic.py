"""Trained on images of one kind of content, tested on others (ImageAttributionBench): `train_where` of the data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_modules.metrics.intervals import Estimate, proportion
from lightning_modules.reporting.experiments import Group, Spread, spreads
from lightning_modules.reporting.result_tables.methods_of_runs import attributors, data_name, methods_of
from lightning_modules.reporting.result_tables.result_table import Grid, ResultTable, TableOptions, Value
from lightning_modules.reporting.runs import Run

_TRAINED, _OTHERS, _SAME, _SEEDS = "trained on", "the others", "the same", "seeds"
_OF_OTHERS = "test images of others"
_INTRO = (
    "Accuracy on clean test images by what they show: mean ± sample standard deviation over seeds; of one seed alone, "
    "its interval over images. The same: test images of what the training has seen (train_where with test: all)."
)


def one_semantic_table(runs: Sequence[Run], options: TableOptions) -> ResultTable:
    """Accuracy by content, a row for each method and content of the training.

    Raises:
        ValueError: no run was trained on some kinds of content alone.
    """
    runs = attributors(runs)
    others = [str(run.folder) for run in runs if not _where(run)]
    if others:
        raise ValueError(
            f"{', '.join(others)}: trained on all content; this table is of trainings with data.init_args.train_where, "
            "such as {column: garment, values: [dress]} with an index file that has this column"
        )
    found, notes = methods_of(runs, _column, with_fdr=False)
    grids = []
    for name in dict.fromkeys(_data_and_column(run) for run in runs):
        rows: list[str] = []
        cells: dict[tuple[str, str], Value] = {}
        for method in found:
            for group in method.cells.values():
                if _data_and_column(group.runs[0]) == name:
                    trained = _trained_on(group.runs[0])
                    row = f"{method.label}, {trained}"
                    rows.append(row)
                    cells[row, _TRAINED], cells[row, _SEEDS] = trained, len(group.runs)
                    cells |= {(row, column): spread for column, spread in _accuracies(group).items()}
                    cells[row, _OF_OTHERS] = _tested(group.runs[0], same=False).n
        shown = sorted({column for _, column in cells} - {_TRAINED, _OTHERS, _SAME, _SEEDS, _OF_OTHERS})
        columns = [_TRAINED, _OTHERS, *([_SAME] if any(column == _SAME for _, column in cells) else []), *shown]
        title = f"Accuracy by {name[1]}, {name[0]}"
        shares = [_OTHERS, _SAME, *shown]
        grids.append(Grid(title, "method", rows, [*columns, _OF_OTHERS, _SEEDS], cells, shares, _INTRO))
    return ResultTable("Trained on one kind of content", grids, notes=notes)


def _where(run: Run) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (run.evaluation.get("settings") or {}).get("data", {}).get("train_where") or {}
    return found


def _trained_on(run: Run) -> str:
    return ", ".join(_where(run)["values"])


def _data_and_column(run: Run) -> tuple[str, str]:
    return data_name(run), str(_where(run)["column"])


def _column(run: Run) -> str:
    return f"{data_name(run)}, {_trained_on(run)}, test {_where(run).get('test')}"


def _accuracies(group: Group) -> dict[str, Spread]:
    numbers = []
    for run in group.runs:
        own = {_OTHERS: _tested(run, same=False), _SAME: _tested(run, same=True)}
        numbers.append({**{name: one for name, one in own.items() if one.n}, **_by_value(run)})
    return spreads(numbers)


def _by_value(run: Run) -> dict[str, Estimate]:
    found = {re.fullmatch(r"test/semantic/(.*)/accuracy", name): one for name, one in run.metrics.items()}
    return {match[1]: one for match, one in found.items() if match is not None}


def _tested(run: Run, same: bool) -> Estimate:
    """Accuracy over all test images of what the training has seen, or of all else."""
    values = {str(value).replace("/", "_") for value in _where(run)["values"]}
    chosen = [one for value, one in _by_value(run).items() if (value in values) == same]
    return proportion(sum(round(one.value * one.n) for one in chosen), sum(one.n for one in chosen))
