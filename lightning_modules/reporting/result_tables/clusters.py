"""Clusters of fingerprints against design choices of the generators (ManiFPT, Table 5), beside their chance level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.experiments import spreads
from lightning_modules.reporting.page import Number
from lightning_modules.reporting.result_tables.methods_of_runs import Method, attributors, data_columns, methods_of
from lightning_modules.reporting.result_tables.paper import paper_grid
from lightning_modules.reporting.result_tables.result_table import Grid, ResultTable, TableOptions, Value
from lightning_modules.reporting.runs import Run

if TYPE_CHECKING:
    from lightning_modules.metrics.clustering import ClusterAgreement

CHOICES = ("upsampling", "non_linearity", "normalisation", "downsampling", "skip", "loss")
"""In the order of the paper."""
MOST_IMAGES = 2000  # of a run, evenly over its sources
_IMAGES, _SOURCES = "Clusters of images", "Clusters of sources"
_INTROS = {
    _IMAGES: "NMI of k-means clusters of the features of clean test images with each design choice.",
    _SOURCES: "NMI of k-means clusters of the sources' mean features with each design choice.",
}
_CAPTION = (
    "k is the number of different choices; means over five seeds of k-means, and ± over the seeds of the training. "
    "Choices shuffled: the same clusters with the choices dealt out anew among the sources, which is what clusters by "
    "source reach whatever the generators are made of. p: share of such shuffles that reach the NMI. Empty where all "
    "sources have chosen alike, or each otherwise."
)


def clusters_table(runs: Sequence[Run], options: TableOptions) -> ResultTable:
    """NMI of each choice, from the features that the runs' tests have left; real images have no choices.

    Raises:
        ValueError: no design choices are known, or a run holds no features.
    """
    runs = attributors(runs)
    given = None if options.designs is None else read_designs(options.designs)
    column = data_columns(runs)
    found, notes = methods_of(runs, column, with_fdr=False)
    grids = []
    for data in dict.fromkeys(map(column, runs)):
        methods = [method for method in found if data in method.cells]
        designs = _designs(methods[0].cells[data].runs[0], given)
        measured = {method.label: [_agreements(run, designs) for run in method.cells[data].runs] for method in methods}
        where = "" if len({column(run) for run in runs}) == 1 else f", {data}"
        grids += [_grid(f"{title}{where}", title, methods, measured) for title in (_IMAGES, _SOURCES)]
        grids.append(_made_of(f"What the sources are made of{where}", designs))
        notes += [
            f"{' and '.join(same)} divide these sources alike: their numbers are one." for same in _alike(designs)
        ]
    grids.append(paper_grid("The paper's numbers", "clusters", CHOICES, shares=False))
    return ResultTable("Clusters and design choices", grids, notes=notes)


def read_designs(path: Path) -> dict[str, dict[str, str]]:
    """Design choices by source from a YAML file, at its top or under `sources`.

    Raises:
        ValueError: no such file, or another content.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("sources"), dict):
        content = content["sources"]
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise ValueError(f"{path}: expected a mapping of choices ({', '.join(CHOICES)}) for each source")
    return {str(source): _choices(entry) for source, entry in content.items()}


def _choices(entry: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(entry[name]) for name in CHOICES if entry.get(name) is not None}


def _designs(run: Run, given: Mapping[str, Mapping[str, str]] | None) -> dict[str, Mapping[str, str]]:
    """Choices of the sources of a run, reals aside."""
    sources = [str(name) for name in (run.evaluation.get("settings") or {}).get("sources", [])]
    told = (run.evaluation.get("report") or {}).get("source_info") or {}
    known = {source: _choices(entry) for source, entry in told.items()} if given is None else given
    found = {source: known[source] for source in sources if known.get(source) and not source.startswith("real")}
    if len(found) < 2:
        where = "its data set's sources.yaml and designs.yaml" if given is None else "the file of --designs"
        raise ValueError(
            f"{run.folder}: found design choices of {len(found)} of the sources {sources} in {where}, expected 2 at "
            f"least; write {', '.join(CHOICES)} for each source into a YAML file and name it with --designs"
        )
    return found


def _agreements(run: Run, designs: Mapping[str, Mapping[str, str]]) -> dict[tuple[str, str], ClusterAgreement]:
    """By grid and choice."""
    from lightning_modules.evaluation.attribution import shown_features
    from lightning_modules.evaluation.blocks import EvaluationFolder
    from lightning_modules.metrics.clustering import cluster_agreements, source_means

    folder = EvaluationFolder(run.folder)
    folder.require_whole()
    features, labels = shown_features(folder, MOST_IMAGES)
    names = [str(folder.evaluation.settings["sources"][label]) for label in labels]
    points = features.double().numpy()
    chosen = {choice: {source: own[choice] for source, own in designs.items() if choice in own} for choice in CHOICES}
    return {
        (title, choice): agreement
        for title, (rows, sources) in {_IMAGES: (points, names), _SOURCES: source_means(points, names)}.items()
        for choice, agreement in cluster_agreements(rows, sources, chosen).items()
    }


def _grid(
    title: str,
    kind: str,
    methods: Sequence[Method],
    measured: Mapping[str, Sequence[Mapping[tuple[str, str], ClusterAgreement]]],
) -> Grid:
    shown: dict[str, Callable[[ClusterAgreement], float]] = {
        "": lambda one: one.nmi,
        ": choices shuffled": lambda one: one.chance,
        ": p": lambda one: one.p_value,
    }
    cells: dict[tuple[str, str], Value] = {}
    rows = []
    for method in methods:
        runs = measured[method.label]
        for suffix, take in shown.items():
            rows.append(method.label + suffix)
            numbers = [
                {
                    choice: Estimate(take(one), None, None, one.n, "none")
                    for (grid, choice), one in run.items()
                    if grid == kind
                }
                for run in runs
            ]
            for choice, spread in spreads(numbers).items():
                known = Number(f"{spread.mean:.2f}", spread.mean)
                cells[method.label + suffix, choice] = known if suffix == ": p" else spread
    return Grid(title, "features of", rows, CHOICES, cells, intro=_INTROS[kind], caption=_CAPTION)


def _alike(designs: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """Choices that put the sources into the same groups."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for choice in CHOICES:
        values = [own.get(choice, "") for own in designs.values()]
        groups.setdefault(tuple(values.index(value) for value in values), []).append(choice)
    return [same for same in groups.values() if len(same) > 1]


def _made_of(title: str, designs: Mapping[str, Mapping[str, str]]) -> Grid:
    cells: dict[tuple[str, str], Value] = {
        (source, choice): value for source, chosen in designs.items() for choice, value in chosen.items()
    }
    return Grid(title, "source", list(designs), CHOICES, cells)
