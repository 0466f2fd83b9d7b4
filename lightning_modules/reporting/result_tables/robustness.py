"""Accuracy and FDR of each method under each condition, trained with and without augmentation."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_modules.reporting.long_table import CLEAN, Result
from lightning_modules.reporting.result_tables.methods_of_runs import Method, attributors, data_columns, methods_of
from lightning_modules.reporting.result_tables.result_table import Grid, ResultTable, TableOptions, Value
from lightning_modules.reporting.runs import Run
from lightning_modules.reporting.settings_in_words import attack_in_words, nested
from lightning_modules.reporting.strengths import curve_of, in_order

_METRICS = {"accuracy": "Accuracy", "fdr": "FDR"}
_TRAINED, _SEEDS, _NO_ATTACK = "trained on", "seeds", "clean"
_AUGMENTATION = "model.init_args.augmentation"
_PRESETS = "attacks of presets"


def robustness_table(runs: Sequence[Run], options: TableOptions) -> ResultTable:
    """For each data set, metric and kind of attack: methods by strength, from the weakest on.

    Raises:
        ValueError: no run was tested under an attack.
    """
    runs = attributors(runs)
    column = data_columns(runs)
    found, notes = methods_of(runs, column)
    data_sets = list(dict.fromkeys(map(column, runs)))
    grids = [grid for data in data_sets for grid in _grids(found, data, data_sets)]
    if not grids:
        raise ValueError(
            "no run was tested under an attack; test them again with --model.init_args.test_attacks, grid-jpeg for one"
        )
    return ResultTable("Robustness", grids, notes=notes)


def _grids(found: Sequence[Method], data: str, data_sets: Sequence[str]) -> list[Grid]:
    methods = [method for method in found if data in method.cells]
    methods = sorted(methods, key=lambda method: augmentation(method.cells[data].runs[0]) is not None)
    where = "" if len(data_sets) == 1 else f", {data}"
    grids = []
    for metric, title in _METRICS.items():
        for kind, conditions in _conditions(methods, data, metric).items():
            heading = f"{title}, {_titled(kind)}{where}"
            grids.append(_grid(heading, methods, data, metric, conditions))
    return grids


def _titled(kind: str) -> str:
    curve = None if kind == _PRESETS else curve_of(kind)
    title = kind if curve is None else curve.title
    return title if title.isupper() else title.lower()


def _grid(title: str, methods: Sequence[Method], data: str, metric: str, conditions: Sequence[Result]) -> Grid:
    cells: dict[tuple[str, str], Value] = {}
    names = {one.attack: f"{one.kind} {one.strength:g}" if one.on_curve else one.attack for one in conditions}
    for method in methods:
        group = method.cells[data]
        cells[method.label, _TRAINED] = augmentation(group.runs[0]) or "clean images"
        cells[method.label, _SEEDS] = len(group.runs)
        for attack, name in {CLEAN: _NO_ATTACK, **names}.items():
            if (spread := group.results.get(("test", attack, metric))) is not None:
                cells[method.label, name] = spread
    shown = [_NO_ATTACK, *names.values()]
    rows = [method.label for method in methods]
    return Grid(title, "method", rows, [_TRAINED, *shown, _SEEDS], cells, shown if metric == "accuracy" else ())


def _conditions(methods: Sequence[Method], data: str, metric: str) -> dict[str, list[Result]]:
    """The conditions that any method was tested under by kind, from the weakest on; other attacks at the end."""
    known: dict[str, Result] = {}
    for method in methods:
        for (part, attack, name), result in method.cells[data].conditions.items():
            if (part, name) == ("test", metric) and attack != CLEAN:
                known.setdefault(attack, result)
    curves = in_order({result.kind for result in known.values() if result.on_curve})
    found = {}
    for kind in curves:
        curve = curve_of(kind)
        points = [result for result in known.values() if result.on_curve and result.kind == kind]
        weaker_is_larger = curve is not None and curve.weaker_is_larger
        found[kind] = sorted(points, key=lambda one: float(one.strength or 0.0), reverse=weaker_is_larger)
    others = [result for result in known.values() if not result.on_curve]
    return found | ({_PRESETS: others} if others else {})


def augmentation(run: Run) -> str | None:
    """What the training images met, in words; None where it was nothing."""
    given = nested(run.settings, _AUGMENTATION) or {}
    attack = given.get("attack") or given.get("attacks")  # the latter of earlier versions
    if not attack or attack == "none":
        return None
    probability = given.get("probability")
    return attack_in_words(attack) + ("" if probability is None else f" (of {probability:g})")
