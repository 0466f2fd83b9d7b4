"""Trained on one data set, tested on another (ManiFPT, Table 4), in the label spaces that both share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_modules.reporting.result_tables.methods_of_runs import Method, attributors, data_name, methods_of
from lightning_modules.reporting.result_tables.paper import paper_grid, paper_numbers
from lightning_modules.reporting.result_tables.result_table import Grid, ResultTable, TableOptions, Value
from lightning_modules.reporting.runs import Run

_INTRO = (
    "Mean ± sample standard deviation over seeds; of one seed alone, its interval over test images. A > B: trained on "
    "A, tested on B. shared-model: among the sources that both have, all reals being one class. family: among the "
    "families that both have, by the sum of their sources' probabilities. Images and answers of other classes are "
    "left out."
)
_CHANCE = "chance"


def cross_dataset_table(runs: Sequence[Run], options: TableOptions) -> ResultTable:
    """Accuracy of each method, data set to data set; beside it, where such runs are given, on the training's own.

    Raises:
        ValueError: no run was tested on other sources than it was trained on.
    """
    runs = attributors(runs)
    if not any(_space(run) for run in runs):
        raise ValueError(
            "no run was tested on another data set; test trained ones there: evaluate.py test --ckpt_path RUN "
            "--data.init_args.root OTHER --label_space family (or shared-model)"
        )
    found, notes = methods_of(runs, _column, with_fdr=False)
    columns = sorted(dict.fromkeys(map(_column, runs)), key=_as_trained_last)
    grids = [
        _grid("Accuracy", "test/accuracy", found, columns, chance=True),
        _grid("Mean accuracy over classes", "test/accuracy_macro", found, columns, chance=False),
        _spaces(runs),
    ]
    pairs = list(next(iter(paper_numbers()["cross_dataset"].values())))
    grids.append(paper_grid("The paper's numbers (accuracy)", "cross_dataset", pairs))
    return ResultTable("Across data sets", grids, notes=notes)


def _space(run: Run) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (run.evaluation.get("report") or {}).get("label_space") or {}
    return found


def _column(run: Run) -> str:
    if found := _space(run):
        return f"{found['trained_on']} > {found['tested_on']}, {found['name']}"
    return f"{data_name(run)}, as trained"


def _as_trained_last(column: str) -> bool:
    return column.endswith("as trained")


def _grid(title: str, metric: str, found: Sequence[Method], columns: Sequence[str], chance: bool) -> Grid:
    cells: dict[tuple[str, str], Value] = {}
    rows = [method.label for method in found]
    for method in found:
        for column in columns:
            if (spread := method.spread(column, metric)) is not None:
                cells[method.label, column] = spread
    for column in columns:
        run = next(method.cells[column] for method in found if column in method.cells).runs[0]
        if chance and (level := run.metrics.get(f"test/{_CHANCE}")) is not None:
            cells[_CHANCE, column] = level
    return Grid(
        title, "method", [*rows, *([_CHANCE] if chance else [])], columns, cells, columns, _INTRO if chance else ""
    )


def _spaces(runs: Sequence[Run]) -> Grid:
    """What was compared in each column."""
    cells: dict[tuple[str, str], Value] = {}
    columns = {"classes": "classes", "left out of the test": "left_out", "never answered": "never_answered"}
    rows = []
    for run in runs:
        if (found := _space(run)) and _column(run) not in rows:
            rows.append(_column(run))
            for title, key in columns.items():
                cells[_column(run), title] = ", ".join(found[key]) or "none"
            accuracy = run.metrics.get("test/accuracy")
            if accuracy is not None:
                cells[_column(run), "test images"] = accuracy.n
    return Grid("Label spaces", "trained > tested", rows, [*columns, "test images"], cells)
