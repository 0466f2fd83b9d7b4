"""The report of an attributor's evaluation: figures as PNG files, and one page that carries them all."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.evaluation.conditions import Condition
from lightning_modules.evaluation.explanations import Explanations
from lightning_modules.metrics.intervals import TRAINING_IMAGES, Estimate
from lightning_modules.metrics.trivial_features import MOST_PER_SOURCE
from lightning_modules.reporting.explained_section import explained_section
from lightning_modules.reporting.figures.artifact_rows import ArtifactRow, artifact_rows
from lightning_modules.reporting.figures.bars import confusion_matrix, method_accuracy, per_source_accuracy
from lightning_modules.reporting.figures.explanation_rows import explanation_rows
from lightning_modules.reporting.figures.robustness import robustness_curves, training_curves
from lightning_modules.reporting.figures.tsne import tsne_figure
from lightning_modules.reporting.findings import (
    TrainingState,
    best_trivial,
    fdr_conditions,
    unchanged_sentence,
    warnings_of,
)
from lightning_modules.reporting.fingerprint_tables import by_attack, strength_curves
from lightning_modules.reporting.formatting import format_percent
from lightning_modules.reporting.open_set_sections import open_set_sections
from lightning_modules.reporting.page import (
    Block,
    Cell,
    Details,
    FigureBlock,
    Headline,
    Section,
    Summary,
    Table,
    render_report,
    run_section,
    write_figures,
)
from lightning_modules.reporting.runs import epoch_means
from lightning_modules.representations.registry import representation_title

_SHARES = {"accuracy": "accuracy", "accuracy_macro": "mean accuracy over sources"}
_NUMBERS = {"fdr": "FDR"}
_CURVES = ("train/loss", "train/accuracy", "val/accuracy")


@dataclass(frozen=True)
class ExampleImages:
    """One test image `(3, H, W)`, its nearest real (None where only its point is known) and its artifact."""

    index: int
    image: Tensor
    nearest: Tensor | None
    artifact: Tensor


@dataclass(frozen=True)
class AttributionResults:
    """What the page shows."""

    results: dict[str, Estimate]  # metrics by `test/name`
    conditions: list[Condition]  # in the order shown, `clean` first
    confusion: NDArray[np.int64]  # (K, K) of the clean images, rows = true source, columns = predicted
    distances: dict[str, list[float]]  # of clean images to the nearest real, by source; empty where none was searched
    sources: list[str]  # label = position
    source_info: dict[str, dict[str, Any]]  # what is known of each source
    features: Tensor  # (M, d), penultimate features of an even selection of test images
    labels: list[int]  # of these images
    examples: dict[int, list[ExampleImages]]  # test images by label; none where no nearest real was searched
    settings: dict[str, Any]  # `embedding`, `representation`, `network`, `control_network` and `model_seed`
    data: dict[str, str]  # what the data set says of itself, by name
    unknown: Sequence[str] = ()  # sources that were held out and tested as such
    explained: Explanations | None = None  # single images; None where none were asked for
    training: TrainingState | None = None  # how far the training had come; None where that is not known


def write_attribution_page(folder: Path, shown: AttributionResults) -> dict[str, Path]:
    """Write `figures/*.png` and `report.html` into a run folder; returns the figures' paths by name."""
    paths = write_figures(folder, _figures(folder, shown))
    sections = [_sources_section(shown, paths)]
    if best_trivial(shown.results) is not None:
        sections.append(_trivial_section(shown))
    if "artifacts" in paths or shown.distances:
        sections.append(_images_section(shown, paths))
    if shown.explained is not None and "explanations" in paths:
        sections.append(explained_section(shown.explained, paths["explanations"], functools.partial(_title, shown)))
    if "controls" in paths:
        sections.append(_controls_section(shown, paths))
    if ablations := _ablations(shown):
        sections.append(_branches_section(shown, ablations))
    sections += open_set_sections(shown.results, shown.conditions, shown.unknown)
    sections.append(_features_section(shown, paths))
    if len(shown.conditions) > 1:
        sections.append(_robustness_section(shown, paths))
    sections.append(run_section(folder, paths, "Loss and accuracy by epoch.", _facts(shown)))
    seen = {"artifact": "artifacts"}.get(shown.settings["representation"], shown.settings["representation"])
    title = f"Which generator made it? {len(shown.sources)} sources, {shown.settings['embedding'].upper()} {seen}"
    render_report(folder / "report.html", title=title, summary=_summary(shown), sections=sections)
    return paths


def _controls(shown: AttributionResults) -> dict[str, Estimate]:
    found = {re.fullmatch(r"test/control/(.*)/accuracy", name): estimate for name, estimate in shown.results.items()}
    return {_title(shown, match[1]): estimate for match, estimate in found.items() if match is not None}


def _title(shown: AttributionResults, representation: str) -> str:
    """How tables call a representation; evaluations of version 0.1 hold no titles."""
    titles = shown.settings.get("titles") or {}
    return str(titles.get(representation) or representation_title(representation))


def _figures(folder: Path, shown: AttributionResults) -> dict[str, Figure]:
    recalls = {source: shown.results[f"test/recall/{source}"] for source in shown.sources}
    chance = 1 / len(shown.sources)
    figures = {
        "confusion": confusion_matrix(shown.confusion, shown.sources),
        "recall": per_source_accuracy(recalls, chance=chance),
        "tsne": tsne_figure(shown.features, shown.labels, shown.sources, seed=shown.settings["model_seed"]),
    }
    if rows := _artifact_rows(shown):
        figures["artifacts"] = artifact_rows(rows, space=shown.settings["embedding"].upper())
    if shown.explained is not None and any(each.tensors for each in shown.explained.examples):
        figures["explanations"] = explanation_rows(shown.explained, shown.sources)
    if controls := _controls(shown):
        figures["controls"] = method_accuracy(
            controls, chance=chance, highlight=[_title(shown, shown.settings["representation"])]
        )
    if points := strength_curves(shown.results, shown.conditions, "accuracy"):
        figures["robustness"] = robustness_curves(
            points, of="accuracy", clean=shown.results["test/accuracy"], chance=chance
        )
    if curves := epoch_means(folder / "logs" / "metrics.csv", dict(zip(_CURVES, _CURVES, strict=True))):
        figures["training"] = training_curves(curves)
    return figures


def _artifact_rows(shown: AttributionResults) -> list[ArtifactRow]:
    """Sources with as many examples as any, where the nearest reals are known; no artifacts if they are no images."""
    most = max(map(len, shown.examples.values()), default=0)
    rows = []
    for label, source in enumerate(shown.sources):
        examples = shown.examples.get(label, [])
        nearest = [example.nearest for example in examples if example.nearest is not None]
        if most and len(nearest) == most:
            images = torch.stack([example.image for example in examples])
            artifacts = torch.stack([example.artifact for example in examples])
            drawn = artifacts.ndim == 4 and artifacts.shape[-2:] == images.shape[-2:]
            rows.append(ArtifactRow(source, images, torch.stack(nearest), artifacts if drawn else None))
    return rows


def _summary(shown: AttributionResults) -> Summary:
    accuracy, fdr = shown.results["test/accuracy"], shown.results["test/fdr"]
    chance = f"chance {format_percent(1 / len(shown.sources))}"
    best = best_trivial(shown.results)
    beside = "" if best is None else f"best trivial feature {format_percent(best[1].value)}, {chance}"
    return Summary(
        text=(
            f"A {shown.settings['network']} looks at the {shown.settings['representation']} of an image in "
            f"{shown.settings['embedding'].upper()} space and names one of {len(shown.sources)} sources. All numbers "
            + (
                "are of images asked for, some of which the training has seen."
                if TRAINING_IMAGES in shown.results
                else "are of the test split, which neither training nor the manifold of reals has seen."
            )
        ),
        warnings=warnings_of(shown.results, shown.training),
        headlines=[
            Headline.of("Accuracy", accuracy, percent=True, note=chance),
            Headline.of("Mean accuracy over sources", shown.results["test/accuracy_macro"], percent=True, note=beside),
            Headline.of("FDR", fdr, note=fdr_conditions(shown.results)),
        ],
    )


def _sources_section(shown: AttributionResults, paths: dict[str, Path]) -> Section:
    recalls: list[list[Cell]] = [[source, shown.results[f"test/recall/{source}"]] for source in shown.sources]
    return Section(
        "Sources",
        [
            FigureBlock(
                paths["confusion"], "Test images by true and named source; shading by row.", "Confusion matrix"
            ),
            FigureBlock(paths["recall"], "Share of each source's images named rightly.", "Accuracy by source"),
            Details("Accuracy by source as a table", Table(["source", "accuracy"], recalls, percent=["accuracy"])),
        ],
    )


def _images_section(shown: AttributionResults, paths: dict[str, Path]) -> Section:
    blocks: list[Block] = []
    if "artifacts" in paths:
        caption = "For each source: image, nearest real of the manifold, and their signed difference, the artifact."
        blocks.append(FigureBlock(paths["artifacts"], caption, "Rows of images, nearest real images and artifacts"))
    table: list[list[Cell]] = [
        [source, float(np.mean(found)), float(np.median(found)), len(found)]
        for source, found in shown.distances.items()
        if found
    ]
    unit = "pixel values in [0, 1]" if shown.settings["embedding"] == "rgb" else "in the units of the embedding"
    caption = f"Euclidean distance to the nearest real, {unit}."
    blocks.append(Table(["source", "mean distance", "median distance", "images"], table, caption))
    return Section("Images, nearest reals and artifacts", blocks)


def _trivial_section(shown: AttributionResults) -> Section:
    prefix = "test/trivial/"
    own = shown.results["test/accuracy_macro"]
    rows: list[list[Any]] = [["the attributor", own, own.n, "its training"]]
    rows += [
        [estimate.details["what"], estimate, estimate.n, estimate.details["fitted_on"]]
        for name, estimate in shown.results.items()
        if name.startswith(prefix)
    ]
    rows.append(["guessing", 1 / len(shown.sources), None, None])
    return Section(
        "What trivial features reach",
        [
            Table(
                ["what is looked at", "mean accuracy over sources (95 %)", "n", "fitted on"],
                rows,
                f"Features of the pixels: logistic regression, at most {MOST_PER_SOURCE} images of each source and "
                "split. Attributes of the files: a majority vote, as the format audit takes it.",
                percent=["mean accuracy over sources (95 %)"],
            )
        ],
        intro=(
            "What needs no look at the picture belongs beside the accuracy. Where a trivial feature comes close to the "
            "attributor, the attributor may have learned no more than that."
        ),
    )


def _controls_section(shown: AttributionResults, paths: dict[str, Path]) -> Section:
    controls = _controls(shown)
    network = shown.settings["control_network"]
    over_images, over_seeds = "mean accuracy (95 % over images)", "std over seeds"
    rows = [
        [seen, estimate, estimate.details["std"], estimate.details["seeds"], estimate.n]
        for seen, estimate in controls.items()
    ]
    return Section(
        "What the artifact adds",
        [
            FigureBlock(
                paths["controls"],
                "Mean over seeds, with its interval over test images; each dot is one seed.",
                "Accuracy of the controls",
            ),
            Table(
                ["what the network sees", over_images, over_seeds, "seeds", "images"],
                rows,
                "In brackets: where the mean of these networks may lie on other test images (Wilson; several seeds' "
                "answers to one image count as one cluster). Beside it: the standard deviation over networks that "
                "differ in their seed alone, on these images.",
                percent=[over_images, over_seeds],
            ),
        ],
        intro=(
            f"The same network ({network}) on {len(controls)} representations of the same images, trained by the same "
            "recipe in the same steps. If the raw image does as well as the artifact, the nearest real adds nothing "
            "here; if the difference to a random real does as well, it need not be the nearest."
        ),
    )


def _ablations(shown: AttributionResults) -> dict[str, tuple[Estimate, Estimate]]:
    """Accuracy of each branch alone and of the fusion without it, by representation."""
    found = {}
    for name, estimate in shown.results.items():
        if match := re.fullmatch(r"test/branch/(.*)/accuracy", name):
            found[match[1]] = (estimate, shown.results[f"test/without/{match[1]}/accuracy"])
    return found


def _branches_section(shown: AttributionResults, ablations: dict[str, tuple[Estimate, Estimate]]) -> Section:
    alone, without = "accuracy alone", "accuracy of the others without it"
    rows: list[list[Cell]] = [[_title(shown, name), *pair] for name, pair in ablations.items()]
    rows.append(["all together", shown.results["test/accuracy"], None])
    caption = (
        "The branches are not trained again: alone, a branch answers by itself; without it, the others answer with the "
        "weights they have."
    )
    table = Table(["branch", alone, without], rows, caption, percent=[alone, without])
    intro = "What each representation knows by itself, and what is lost without it."
    return Section("Branches", [table], intro)


def _features_section(shown: AttributionResults, paths: dict[str, Path]) -> Section:
    fdr, null = shown.results["test/fdr"], shown.results["test/fdr_null"]
    facts = {key: value for key, value in {**fdr.details, **null.details}.items() if not isinstance(value, list)}
    return Section(
        "Features",
        [
            FigureBlock(
                paths["tsne"],
                "t-SNE of the penultimate features of test images. Distances between far clusters mean little.",
                "Scatter of test images by source",
            ),
            Table(
                ["features", "Frechet distance ratio (95 %)", "images a distance", "d", "drawn"],
                [
                    ["labels as they are", fdr, fdr.details["n_per_half"], fdr.details["d"], _times(fdr, "seeds")],
                    ["labels shuffled", null, fdr.details["n_per_half"], fdr.details["d"], _times(null, "shuffles")],
                ],
                "Distance between sources over distance between halves of one source. It compares with its null below "
                "it, and with ratios of the same n and d alone: where sources differ at all, it grows with n. It is of "
                "whole sources; how many single images are told apart is the accuracy.",
            ),
            Details("FDR in detail", {"FDR": fdr.value, **facts}),
        ],
    )


def _robustness_section(shown: AttributionResults, paths: dict[str, Path]) -> Section:
    names = [each.name for each in shown.conditions]
    clean = {f"test/{names[0]}/{name}": shown.results[f"test/{name}"] for name in _SHARES | _NUMBERS}
    caption = (
        "Attacks act on the 8-bit image; then come embedding, nearest real and network, as for a file from anywhere. "
        "FDR compares at equal n and d alone, which are the same in all rows."
    )
    table = by_attack({**shown.results, **clean}, names, _SHARES, caption, numbers=_NUMBERS)
    blocks: list[Block] = [] if table is None else [table]
    if "robustness" in paths:
        told = "Accuracy by strength of the attack."
        blocks.append(FigureBlock(paths["robustness"], told, "Curves of accuracy against the strength of each attack"))
    return Section("Robustness", blocks, unchanged_sentence(shown.results, names))


def _times(estimate: Estimate, of: str) -> str:
    return f"{estimate.details[of]} {'halvings' if of == 'seeds' else of}"


def _facts(shown: AttributionResults) -> list[Block]:
    blocks: list[Block] = []
    if shown.data:
        blocks.append(Details("Data", shown.data))
    if shown.source_info:
        keys = sorted({key for info in shown.source_info.values() for key in info} - {"sha256"})
        found = {name: [info.get(key) for key in keys] for name, info in shown.source_info.items()}
        table = [[name, *(None if value is None else str(value) for value in row)] for name, row in found.items()]
        blocks.append(Details("Sources", Table(["source", *keys], table)))
    return blocks
