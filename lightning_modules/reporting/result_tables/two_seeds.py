"""Two trainings of one architecture, told apart (SPRINT's hard split): seeds, or checkpoints of one training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from lightning_modules.metrics.intervals import Estimate, wilson
from lightning_modules.reporting.experiments import spreads
from lightning_modules.reporting.long_table import CLEAN
from lightning_modules.reporting.result_tables.methods_of_runs import Method, attributors, data_columns, methods_of
from lightning_modules.reporting.result_tables.result_table import Grid, ResultTable, TableOptions, Value
from lightning_modules.reporting.row_scores import ROWS_FILE
from lightning_modules.reporting.runs import Run

_SAME_MODEL = re.compile(r"(?P<model>.+?)(?:[-_.](?:seed|checkpoint|ckpt|step|run)[-_.]?\w+)?")
_ACCURACY, _TOGETHER, _SEEDS = "accuracy between the two", "named one of the two", "seeds"
_CAPTION = (
    "Between the two: the one that is given the higher probability, whatever the other sources are given; chance 50 %, "
    "a tie counts half. Its interval is Wilson's over images; over several seeds, ± their standard deviation. Above "
    "chance: by Wilson's interval of the mean, with the images of one seed. Named one of the two: among all sources."
)


@dataclass(frozen=True)
class PairScores:
    """Clean test images of two sources.

    Attributes:
        between: Images of each by the one of the pair that is given the higher probability, `(true, named)`; a tie is
            half of each.
        named: Images of each by what they are called among all sources: one of the pair, or "another".
    """

    between: Mapping[tuple[str, str], float]
    named: Mapping[tuple[str, str], int]
    n: int

    def accuracy(self, pair: tuple[str, str]) -> Estimate:
        """Share of images that are given to the right one of the two, with its Wilson interval."""
        right = sum(self.between[source, source] for source in pair)
        return Estimate(right / self.n, *wilson(right, self.n), self.n, "wilson 95%")

    def together(self, pair: tuple[str, str]) -> Estimate:
        """Share of images that are called by the name of either."""
        either = sum(self.named[true, named] for true in pair for named in pair)
        return Estimate(either / self.n, *wilson(either, self.n), self.n, "wilson 95%")


def two_seeds_table(runs: Sequence[Run], options: TableOptions) -> ResultTable:
    """For each pair: accuracy between the two by method, and who is taken for whom.

    Raises:
        ValueError: no run has two sources of one architecture, or rows without probabilities.
    """
    runs = attributors(runs)
    column = data_columns(runs)
    found, notes = methods_of(runs, column, with_fdr=False)
    grids = []
    data_sets = list(dict.fromkeys(map(column, runs)))
    for data in data_sets:
        methods = [method for method in found if data in method.cells]
        for pair in _pairs(methods[0].cells[data].runs[0], options.sources):
            scores = {method.label: [pair_scores(run, pair) for run in method.cells[data].runs] for method in methods}
            title = " and ".join(pair) + ("" if len(data_sets) == 1 else f", {data}")
            grids += [_accuracies(title, pair, methods, scores), _confusions(title, pair, methods, scores)]
    if not grids:
        sources = sorted({source for run in runs for source in _sources(run)})
        raise ValueError(
            f"found no two sources of one architecture among {sources}: their names differ in a suffix such as -seed2; "
            "or name a pair with --sources A B"
        )
    return ResultTable("Two trainings of one architecture", grids, notes=notes)


def _sources(run: Run) -> list[str]:
    return [str(name) for name in (run.evaluation.get("settings") or {}).get("sources", [])]


def _pairs(run: Run, asked: tuple[str, str] | None) -> list[tuple[str, str]]:
    sources = _sources(run)
    if asked is not None:
        if unknown := [name for name in asked if name not in sources]:
            raise ValueError(f"{run.folder}: found no source {' or '.join(unknown)} among {sources}")
        if asked[0] == asked[1]:
            raise ValueError(f"--sources names {asked[0]} twice; expected two sources")
        return [asked]
    return [(one, other) for one, other in combinations(sources, 2) if _model(one) == _model(other)]


def _model(source: str) -> str:
    match = _SAME_MODEL.fullmatch(source)
    return source if match is None else match["model"]


def pair_scores(run: Run, pair: tuple[str, str]) -> PairScores:
    """What a run's clean rows say of the images of two sources.

    Raises:
        ValueError: no rows, rows without probabilities, or none of one of the sources.
    """
    between = {(true, named): 0.0 for true in pair for named in pair}
    named = {(true, name): 0 for true in pair for name in (*pair, "another")}
    counts = dict.fromkeys(pair, 0)
    for row in _clean_rows(run.folder):
        true = row.get("source")
        if true not in counts:
            continue
        one, other = (row["probabilities"][name] for name in pair)
        counts[true] += 1
        between[true, pair[0]] += 0.5 if one == other else float(one > other)
        between[true, pair[1]] += 0.5 if one == other else float(other > one)
        named[true, row["predicted"] if row["predicted"] in pair else "another"] += 1
    if missing := [source for source, count in counts.items() if not count]:
        raise ValueError(
            f"{run.folder / ROWS_FILE}: found no clean image of {' or '.join(missing)}; test the run again"
        )
    return PairScores(between, named, sum(counts.values()))


def _clean_rows(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / ROWS_FILE
    if not path.is_file():
        raise ValueError(f"found no {path}; write it again with `evaluate.py report {folder}`")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                if row.get("attack", CLEAN) == CLEAN:
                    yield {name: row[name] for name in ("source", "predicted", "probabilities")}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {number}: found no row with source, predicted and probabilities ({error}); write it "
                    f"again with `evaluate.py report {folder}`"
                ) from error


def _accuracies(
    title: str, pair: tuple[str, str], methods: Sequence[Method], scores: Mapping[str, Sequence[PairScores]]
) -> Grid:
    cells: dict[tuple[str, str], Value] = {}
    for method in methods:
        own = scores[method.label]
        numbers = [{_ACCURACY: one.accuracy(pair), _TOGETHER: one.together(pair)} for one in own]
        for name, spread in spreads(numbers).items():
            cells[method.label, name] = spread
        right = sum(one.between[each, each] for one in own for each in pair) / len(own)
        low, high = wilson(right, own[0].n)  # seeds see the same images: there are no more of them
        cells[method.label, "above chance"] = "yes" if low > 0.5 else "below" if high < 0.5 else "no"
        cells[method.label, "test images"] = own[0].n
        cells[method.label, _SEEDS] = len(own)
    cells["chance", _ACCURACY] = Estimate(0.5, None, None, scores[methods[0].label][0].n, "none")
    columns = [_ACCURACY, "above chance", _TOGETHER, "test images", _SEEDS]
    rows = [*(method.label for method in methods), "chance"]
    return Grid(title, "method", rows, columns, cells, [_ACCURACY, _TOGETHER], caption=_CAPTION)


def _confusions(
    title: str, pair: tuple[str, str], methods: Sequence[Method], scores: Mapping[str, Sequence[PairScores]]
) -> Grid:
    """Counts over all seeds together."""
    cells: dict[tuple[str, str], Value] = {}
    rows = []
    for method in methods:
        for true in pair:
            row = f"{method.label}: {true}"
            rows.append(row)
            for name in (*pair, "another"):
                cells[row, f"named {name}"] = sum(one.named[true, name] for one in scores[method.label])
            for name in pair:
                found = sum(one.between[true, name] for one in scores[method.label])
                cells[row, f"rather {name}"] = int(found) if found == int(found) else found
    columns = [f"named {name}" for name in (*pair, "another")] + [f"rather {name}" for name in pair]
    caption = "Images of all seeds together; named: among all sources, rather: between the two."
    return Grid(f"Who is taken for whom, {title}", "images of", rows, columns, cells, caption=caption)
