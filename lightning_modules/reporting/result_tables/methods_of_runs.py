"""Runs as methods by data sets: what is trained in the same way is one method, whatever it is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_modules.common.files import data_set_name
from lightning_modules.reporting.comparability import notes as comparability_notes
from lightning_modules.reporting.experiments import Group, Spread, group_runs, spreads
from lightning_modules.reporting.runs import Run

ATTRIBUTOR = "Attributor"
_DATA = (
    "root", "index_file", "split_file", "cache_dir", "center_crop", "resize", "reencode", "groups", "format_audit",
    "images_per_source", "manifold_size", "max_image_pixels", "block_size", "duplicates", "train_where",
)  # fmt: skip
"""Arguments of a data module that say what the images are, not how something is trained on them."""
_SPLIT = "data.init_args.seed"
_OF_TESTS = ("label_space", "model.init_args.test_attacks")  # the same weights, asked otherwise


@dataclass(frozen=True)
class Method:
    """One way of training, with its runs by column: a data set, in most tables."""

    label: str
    cells: Mapping[str, Group]  # runs that differ in their seed alone

    def spread(self, column: str, metric: str) -> Spread | None:
        """Mean and spread over seeds of a metric of `metrics.json`; None where it was not measured."""
        group = self.cells.get(column)
        return None if group is None else group.metrics.get(metric)


def attributors(runs: Sequence[Run]) -> list[Run]:
    """The same runs, if all are tests of attributors.

    Raises:
        ValueError: others are among them, by name.
    """
    others = [str(run.folder) for run in runs if class_of(run) != ATTRIBUTOR]
    if others:
        raise ValueError(f"found no attributor in {', '.join(others)}; this table is of attributors alone")
    return list(runs)


def class_of(run: Run) -> str:
    """The class that was trained, without its module."""
    return str(run.settings.get("model.class_path", "")).rpartition(".")[2]


def data_name(run: Run) -> str:
    """What a run's data set is called: the name of its folder, or of its index file."""
    prefix = "data.init_args."
    return data_set_name({name: run.settings.get(prefix + name) for name in ("root", "index_file")})


def data_columns(runs: Sequence[Run]) -> Callable[[Run], str]:
    """What names the data set of each run: the name of its folder, numbered where one name stands for other images too.

    Splits of one data set share a name: where `data.init_args.seed` differs, test images may differ too. With
    `images_per_source` every seed draws images of its own, and has a name of its own.
    """
    known: dict[str, list[_DataSet]] = {}
    places: dict[str, int] = {}
    for run in runs:
        sets = known.setdefault(data_name(run), [])
        place = next((place for place, found in enumerate(sets) if found.holds(run)), len(sets))
        if place == len(sets):
            sets.append(_DataSet())
        sets[place].add(run)
        places[str(run.folder)] = place + 1

    def column(run: Run) -> str:
        several = len(known[data_name(run)]) > 1
        return f"{data_name(run)} ({places[str(run.folder)]})" if several else data_name(run)

    return column


class _DataSet:
    """One data set, by the test images of its splits."""

    def __init__(self) -> None:
        self.images: str | None = None  # hash of all, which later versions say
        self.counts: list[Any] = []
        self.pictures: dict[str, set[str]] = {}

    def add(self, run: Run) -> None:
        """Learn of a run on it."""
        self.images = self.images or _described(run).get("all images")
        self.counts = self.counts or _counts(run)
        self.pictures.setdefault(split_of(run), set()).add(tested_pictures(run))

    def holds(self, run: Run) -> bool:
        """Whether the run's test images are those of a known split, or may be those of another one."""
        if any(tested_pictures(run) in known for known in self.pictures.values()):
            return True
        if split_of(run) in self.pictures:
            return False
        images = _described(run).get("all images")
        return images == self.images if images and self.images else self.counts == _counts(run)


def _described(run: Run) -> Mapping[str, Any]:
    """What the run says of its data: how many images of each part, and the hash of all."""
    found: Mapping[str, Any] = (run.evaluation.get("report") or {}).get("data", {})
    return found


def _counts(run: Run) -> list[Any]:
    return [_described(run).get(part) for part in ("train", "val", "test")]


def split_of(run: Run) -> str:
    """The seed that the data set was split with."""
    return str(run.settings.get(_SPLIT, "its own"))


def tested_pictures(run: Run) -> str:
    """A hash over the test images; empty where the run does not say."""
    return str((run.evaluation.get("settings") or {}).get("data", {}).get("pictures", ""))


def methods_of(
    runs: Sequence[Run], column: Callable[[Run], str], *, with_fdr: bool = True
) -> tuple[list[Method], list[str]]:
    """Methods with their runs by column, in the order of the runs; and notes.

    Runs belong to one method where their module has the same settings; where two runs of one column and seed do so,
    all other settings of the training count as well. Seeds are those of the training and of the split. A training's own
    test and another test of the same weights count once. Notes on FDR are of tables `with_fdr`.

    Raises:
        ValueError: two runs of the same settings, column and seed have different numbers.
    """
    runs = list({run.folder.resolve(): run for run in runs}.values())
    keys = [_settings_of_module(run) for run in runs]
    for same in _together(runs, keys, column):
        if len({_text(_settings_of_training(runs[place])) for place in same}) > 1:
            repeated = _text(keys[same[0]])
            keys = [
                _settings_of_training(run) if _text(key) == repeated else key
                for run, key in zip(runs, keys, strict=True)
            ]
    left_out, notes = set(), []
    for same in _together(runs, keys, column):
        best = max((runs[place] for place in same), key=lambda run: len(run.metrics))
        for place in same:
            if runs[place] is not best and _agree(runs[place], best):
                left_out.add(place)
                notes.append(f"{runs[place].folder} and {best.folder} are tests of one training; the latter is shown.")
    kept = [place for place in range(len(runs)) if place not in left_out]
    names = {str(runs[place].folder): column(runs[place]) for place in kept}
    originals = {str(runs[place].folder): runs[place] for place in kept}
    apart = [
        replace(runs[place], settings=keys[place], seed=f"{column(runs[place])}: {seed_and_split(runs[place])}")
        for place in kept
    ]
    groups, repetitions = group_runs(apart)
    found = []
    for group in groups:
        own: dict[str, list[Run]] = {}
        for run in group.runs:
            own.setdefault(names[str(run.folder)], []).append(originals[str(run.folder)])
        found.append(Method(group.label, {name: _group(group.label, members) for name, members in own.items()}))
    for name in dict.fromkeys(names.values()):
        there = [method for method in found if name in method.cells]
        notes += comparability_notes([method.cells[name] for method in there])
        notes += _splits_note(name, there)
    told = dict.fromkeys([*repetitions, *notes])
    return found, [note for note in told if with_fdr or not ("/fdr" in note and note.endswith("do not compare."))]


def seed_and_split(run: Run) -> str:
    """The training's seed, and the split's where that is another."""
    return run.seed if split_of(run) in ("its own", run.seed) else f"{run.seed}, split {split_of(run)}"


def _splits_note(name: str, methods: Sequence[Method]) -> list[str]:
    """What a column needs said where its numbers are of several splits of its images, or not all of the same ones."""
    splits = {method.label: sorted({split_of(run) for run in method.cells[name].runs}) for method in methods}
    every = sorted({split for each in splits.values() for split in each})
    if len({tested_pictures(run) for method in methods for run in method.cells[name].runs}) == 1:
        return []  # whatever they were split with
    told = f"{name}: splits {', '.join(every)} of its images, each with test images of its own."
    fewer = [f"{label} of {', '.join(each)} alone" for label, each in splits.items() if each != every]
    return [told if not fewer else f"{told} {'; '.join(fewer)}."]


def _group(label: str, runs: Sequence[Run]) -> Group:
    ordered = sorted(runs, key=lambda run: run.seed)
    results = [{result.key: result.estimate for result in run.results} for run in ordered]
    return Group(label, {}, ordered, spreads([run.metrics for run in ordered]), spreads(results))


def _together(runs: Sequence[Run], keys: Sequence[Mapping[str, Any]], column: Callable[[Run], str]) -> list[list[int]]:
    """Places of the runs of one key, column and seed, where there are several."""
    same: dict[tuple[str, str, str], list[int]] = {}
    for place, (run, key) in enumerate(zip(runs, keys, strict=True)):
        same.setdefault((_text(key), column(run), seed_and_split(run)), []).append(place)
    return [each for each in same.values() if len(each) > 1]


def _agree(run: Run, other: Run) -> bool:
    common = run.metrics.keys() & other.metrics.keys()
    return bool(common) and all(run.metrics[name].to_json() == other.metrics[name].to_json() for name in common)


def _settings_of_module(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.settings.items() if name.startswith("model.") and not _of_test(name)}


def _settings_of_training(run: Run) -> dict[str, Any]:
    data = (_SPLIT, *(f"data.init_args.{name}" for name in _DATA))
    return {name: value for name, value in run.settings.items() if not _below(name, data) and not _of_test(name)}


def _of_test(name: str) -> bool:
    return _below(name, _OF_TESTS)


def _below(name: str, keys: Sequence[str]) -> bool:
    return any(name == key or name.startswith(f"{key}.") for key in keys)


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)
