"""What a reader has to know before comparing runs: conditions, test images, sources, seeds that are not the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lightning_modules.reporting.experiments import Group
from lightning_modules.reporting.findings import contamination_warning
from lightning_modules.reporting.runs import Run

_CONDITIONS = ("n_per_half", "d", "n_real", "n_fake")  # what FDR and Frechet distances depend on
_MOST_NAMED = 4


def notes(groups: Sequence[Group]) -> list[str]:
    """Everything that has to be said of these experiments side by side."""
    told = [*_contamination_notes(groups), *_condition_notes(groups), *_training_notes(groups)]
    for group in groups[1:]:
        told += _side_by_side(groups[0], group)
    return told


def _condition_notes(groups: Sequence[Group]) -> Iterator[str]:
    """A warning for each metric that depends on conditions which are not the same in all runs."""
    metrics = [run.metrics for group in groups for run in group.runs]
    told: dict[str, list[str]] = {}
    for name in sorted({name for each in metrics for name in each}):
        for condition in _CONDITIONS:
            details = [each[name].details for each in metrics if name in each]
            found = sorted({str(each[condition]) for each in details if condition in each})
            if len(found) > 1:
                told.setdefault(f"{condition} = {', '.join(found)}", []).append(name)
    for conditions, names in told.items():
        yield f"{_listed(names)} was computed with {conditions}: these do not compare."


def _contamination_notes(groups: Sequence[Group]) -> Iterator[str]:
    """A warning for each run that tested images of its training."""
    for run in (run for group in groups for run in group.runs):
        if (warning := contamination_warning(run.metrics)) is not None:
            yield f"{run.folder}: {warning}"


def _training_notes(groups: Sequence[Group]) -> Iterator[str]:
    """A warning for each run whose weights are those of an unfinished training."""
    for run in (run for group in groups for run in group.runs):
        if run.training is not None and not run.training.finished:
            yield f"{run.folder} is of an unfinished training: the weights are those after {run.training.progress}."


def _side_by_side(first: Group, second: Group) -> Iterator[str]:
    """Notes on two experiments: on their runs of a common seed, else on their first ones."""
    other = {run.seed: run for run in second.runs}
    pairs = [(run, other[run.seed]) for run in first.runs if run.seed in other]
    one, two = pairs[0] if pairs else (first.runs[0], second.runs[0])
    both = f"{first.label} and {second.label}"
    yield from _source_notes(one, two, both)
    yield from _image_notes(one, two, both)
    differing = _different_attack_seeds(one, two)
    if differing:
        yield f"{both} drew their attacks from other seeds ({_listed(differing)}): noise and strengths are others."


def _image_notes(one: Run, two: Run, both: str) -> Iterator[str]:
    """Whether two runs were tested on other images."""
    rows, others = one.rows, two.rows
    if rows is not None and others is not None and rows.hashed and others.hashed:
        if not np.array_equal(rows.images, others.images):
            common = len(np.intersect1d(rows.images, others.images))
            counts = f"{len(rows.images):,} and {len(others.images):,}, {common:,} of them in both"
            yield f"{both} were tested on other images: {counts}."
        return
    data, other_data = one.hashes.get("data"), two.hashes.get("data")
    if data and other_data and data != other_data:
        yield f"{both} were tested on other data: their hashes are {data[:12]} and {other_data[:12]}."
    elif not (data and other_data) and one.seed != two.seed and rows is not None and rows.matching:
        yield f"{both} share no seed ({one.seed} and {two.seed}): their test images are of other latents and keys."
    images = {part: _images(one, part) for part in one.evaluation.get("parts", {})}
    differing = [part for part, count in images.items() if _images(two, part) not in (None, count)]
    for part in differing:
        yield f"{both} were tested on {images[part]:,} and {_images(two, part):,} images of the part {part}."


def _images(run: Run, part: str) -> int | None:
    entry = run.evaluation.get("parts", {}).get(part)
    return None if entry is None else int(entry.get("images", 0))


def _source_notes(one: Run, two: Run, both: str) -> Iterator[str]:
    """Whether two attributors tell other sources apart."""
    found = [{result.metric for result in run.results if result.metric.startswith("recall/")} for run in (one, two)]
    if not all(found) or found[0] == found[1]:
        return
    alone = sorted(name.removeprefix("recall/") for name in found[0] ^ found[1])
    counts = f"{len(found[0])} and {len(found[1])}"
    yield f"{both} tell other sources apart ({counts}; not in both: {_listed(alone)}): accuracies do not compare."


def _different_attack_seeds(one: Run, two: Run) -> list[str]:
    """Conditions of both whose attacks were drawn from other seeds."""
    seeds = [
        {entry.get("name"): entry.get("seed") for entry in run.evaluation.get("conditions", [])} for run in (one, two)
    ]
    shared = [name for name in seeds[0] if name in seeds[1] and name != "clean"]
    return [str(name) for name in shared if seeds[0][name] != seeds[1][name]]


def _listed(names: Sequence[str]) -> str:
    """`a, b, c and 12 more`."""
    shown = ", ".join(names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED:,} more"
