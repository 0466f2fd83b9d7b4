"""Methods by data sets (ManiFPT, Table 2): accuracy and FDR beside chance, trivial features and the paper's numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lightning_modules.metrics.intervals import Estimate, mean_and_std
from lightning_modules.reporting.experiments import Group, Spread
from lightning_modules.reporting.page import Number
from lightning_modules.reporting.result_tables.methods_of_runs import (
    Method,
    attributors,
    data_columns,
    methods_of,
    split_of,
    tested_pictures,
)
from lightning_modules.reporting.result_tables.paper import (
    data_set_of_paper,
    method_of_paper,
    number,
    paper_numbers,
    share,
)
from lightning_modules.reporting.result_tables.result_table import Grid, ResultTable, TableOptions, Value
from lightning_modules.reporting.runs import Run
from lightning_modules.reporting.training_cost import TrainingCost

_METRICS = {"accuracy": "test/accuracy", "FDR": "test/fdr", "FDR, labels shuffled": "test/fdr_null"}
_INTRO = (
    "Mean ± sample standard deviation over seeds; of one seed alone, its interval over test images. FDR has its null "
    "beside it, the same features with their labels shuffled: it compares with that, and with FDRs of the same number "
    "of images and of dimensions."
)
_TRIVIAL = (
    "Trivial features: logistic regression on the pixels' statistics, or a vote on attributes of the files; their "
    "numbers are means over sources."
)
_GIB = 2**30


def methods_table(runs: Sequence[Run], options: TableOptions) -> ResultTable:
    """Accuracy and FDR of each method on each data set, and what each training has cost."""
    runs = attributors(runs)
    column = data_columns(runs)
    found, notes = methods_of(runs, column)
    data_sets = list(dict.fromkeys(map(column, runs)))
    beside = {data: name for data in data_sets if (name := data_set_of_paper(data)) is not None}
    grids = [_results(found, data_sets, beside), _data_sets(found, data_sets)]
    if (costs := _costs(found, data_sets)).columns:
        grids.append(costs)
    else:
        notes.append("No run says what its training has cost: trainings of earlier versions did not record it.")
    if not beside:
        grids.append(_paper())
    else:
        notes.append(f"Rows (paper) are of {paper_numbers()['citation']}, with networks and images of its own.")
    return ResultTable("Methods by data sets", grids, notes=notes)


def _results(found: Sequence[Method], data_sets: Sequence[str], beside: Mapping[str, str]) -> Grid:
    cells: dict[tuple[str, str], Value] = {}
    rows: list[str] = []
    for method in found:
        rows.append(method.label)
        for data in data_sets:
            for title, metric in _METRICS.items():
                if (spread := method.spread(data, metric)) is not None:
                    cells[method.label, f"{data}: {title}"] = spread
            if data in method.cells:
                cells[method.label, f"{data}: seeds"] = len(method.cells[data].runs)
        same = method_of_paper(method.label)
        if same is not None and beside:
            rows.append(f"{same} (paper)")
    rows += [] if not beside else [f"{name} (paper)" for name in paper_numbers()["methods"]]
    for data in data_sets:
        groups = [method.cells[data] for method in found if data in method.cells]
        for row, estimate in _references(groups).items():
            rows.append(row)
            cells[row, f"{data}: accuracy"] = estimate
        for method_name, values in paper_numbers()["methods"].items():
            if (name := beside.get(data)) is not None and name in values:
                accuracy, fdr = values[name]
                cells[f"{method_name} (paper)", f"{data}: accuracy"] = share(accuracy)
                cells[f"{method_name} (paper)", f"{data}: FDR"] = number(fdr)
    columns = [f"{data}: {title}" for data in data_sets for title in (*_METRICS, "seeds")]
    shares = [f"{data}: accuracy" for data in data_sets]
    return Grid("Accuracy and FDR", "method", list(dict.fromkeys(rows)), columns, cells, shares, _INTRO, _TRIVIAL)


def _references(groups: Sequence[Group]) -> dict[str, Value]:
    """Chance, and what trivial features reach on these test images: over splits their mean and spread."""
    found: dict[str, dict[str, Estimate]] = {}
    for run in (run for group in groups for run in group.runs):
        if (chance := run.metrics.get("test/chance")) is not None:
            found.setdefault("chance", {}).setdefault("", chance)
        for name, estimate in run.metrics.items():
            if match := re.fullmatch(r"test/trivial/(.*)/accuracy", name):
                row = f"trivial: {estimate.details.get('what', match[1])}"
                found.setdefault(row, {}).setdefault(tested_pictures(run) or split_of(run), estimate)
    return {row: _over_splits(list(values.values())) for row, values in found.items()}


def _over_splits(values: Sequence[Estimate]) -> Value:
    if len(values) == 1:
        return values[0]
    mean, std = mean_and_std([estimate.value for estimate in values])
    return Spread(mean, std, len(values))


def _data_sets(found: Sequence[Method], data_sets: Sequence[str]) -> Grid:
    cells: dict[tuple[str, str], Value] = {}
    columns = ["test images", "sources", "always the largest source"]
    for data in data_sets:
        run = next(method.cells[data] for method in found if data in method.cells).runs[0]
        accuracy, chance, majority = (run.metrics.get(f"test/{name}") for name in ("accuracy", "chance", "majority"))
        if accuracy is not None:
            cells[data, columns[0]] = accuracy.n
        if chance is not None and chance.value:
            cells[data, columns[1]] = round(1 / chance.value)
        if majority is not None:
            cells[data, columns[2]] = Number(f"{100 * majority.value:.1f}\N{NO-BREAK SPACE}%", majority.value)
    return Grid("Data sets", "data set", data_sets, columns, cells)


def _costs(found: Sequence[Method], data_sets: Sequence[str]) -> Grid:
    """What each training has cost, a row for each method and data set."""
    cells: dict[tuple[str, str], Value] = {}
    rows = []
    for method in found:
        for data in (data for data in data_sets if data in method.cells):
            row = method.label if len(data_sets) == 1 else f"{method.label}, {data}"
            rows.append(row)
            for column, values in _cost_numbers(method.cells[data]).items():
                mean, std = mean_and_std(values)
                single = Estimate(mean, None, None, 1, "none") if len(values) == 1 else None
                same = all(value == mean for value in values)
                cells[row, column] = Number(f"{mean:g}", mean) if same else Spread(mean, std, len(values), single)
    caption = (
        "Recorded by the training itself, controls included; memory is the most that one process held, libraries "
        "included. Times compare on one machine alone."
    )
    known = [column for column in _COSTS if any((row, column) in cells for row in rows)]
    return Grid("Cost of training", "method", rows, known, cells, caption=caption)


_COSTS = ("epochs", "minutes", "processor minutes", "memory in GiB", "CUDA memory in GiB")


def _cost_numbers(group: Group) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in _COSTS}
    for run in group.runs:
        cost = TrainingCost.from_json(run.provenance.get("training_cost"))
        if run.training is not None:
            found["epochs"].append(float(run.training.epochs))
        if cost is not None:
            found["minutes"].append(cost.wall_seconds / 60)
            found["processor minutes"].append(cost.processor_seconds / 60)
            found["memory in GiB"].append(cost.peak_bytes / _GIB)
            if cost.peak_device_bytes is not None:
                found["CUDA memory in GiB"].append(cost.peak_device_bytes / _GIB)
    return {name: values for name, values in found.items() if values}


def _paper() -> Grid:
    """The paper's table where none of its data sets is in the comparison."""
    found = paper_numbers()["methods"]
    cells: dict[tuple[str, str], Value] = {}
    for row, values in found.items():
        for data, (accuracy, fdr) in values.items():
            cells[row, f"{data}: accuracy"], cells[row, f"{data}: FDR"] = share(accuracy), number(fdr)
    names = paper_numbers()["data_sets"].values()
    columns = [f"{data}: {metric}" for data in names for metric in ("accuracy", "FDR")]
    intro = f"{paper_numbers()['citation']}, Table 2: other images, other sources, its own networks."
    return Grid("The paper's numbers", "method", list(found), columns, cells, intro=intro)
