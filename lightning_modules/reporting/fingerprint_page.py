"""The report of a fingerprint's evaluation: figures as PNG files, and one page that carries them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lightning_modules.attacks.registry import PRESETS
from lightning_modules.evaluation.conditions import CLEAN, Condition
from lightning_modules.fingerprints.marked_images import MarkedPair
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.figures.marked_pairs import difference_factor, marked_pair_rows, shown_attacks
from lightning_modules.reporting.figures.reliability import reliability_curves
from lightning_modules.reporting.figures.robustness import needed_line, robustness_curves, training_curves
from lightning_modules.reporting.findings import TrainingState, unchanged_sentence, warnings_of
from lightning_modules.reporting.fingerprint_tables import (
    calibration_table,
    false_positive_table,
    fingerprint_headlines,
    identification_table,
    negative_bits_table,
    other_attacks,
    quality_table,
    registry_table,
    robustness_table,
    strength_curves,
)
from lightning_modules.reporting.formatting import format_number
from lightning_modules.reporting.page import (
    Block,
    Details,
    FigureBlock,
    Section,
    Summary,
    Table,
    render_report,
    run_section,
    write_figures,
)
from lightning_modules.reporting.runs import epoch_means

_RATE = 1e-6
_MOST_PANELS = 16  # of reliability
_MOST_ROWS, _MOST_ATTACKS = 8, 8  # of the picture of pairs: more would be too small to see
_CURVES = {
    "train/bit_accuracy": "train/bit_accuracy",
    "val/clean/bit_accuracy": "val, clean/bit_accuracy",
    "val/attacked/bit_accuracy": "val, attacked/bit_accuracy",
    "train/cross_entropy": "train/cross_entropy",
    "train/alpha_error": "train/alpha_error",
}


@dataclass(frozen=True)
class FingerprintResults:
    """What the page shows; no part of it holds a key, and metrics that are missing are left out."""

    results: dict[str, Estimate]  # by name, `test/<attack>/...`, `test/negatives/<kind>/...`, `test/quality/...`
    conditions: list[Condition]  # in the order shown, `clean` first
    examples: list[MarkedPair]
    settings: dict[str, Any]  # hyper-parameters of the module, by dotted name
    fingerprint: dict[str, Any]  # what is public of it (`callbacks.fingerprint_report.PUBLIC`)
    data: dict[str, str]  # what the data say of themselves, by name
    decoder: str  # what read the keys
    loss: str  # what it minimised
    training: TrainingState | None = None  # how far the training had come; None where that is not known


def write_fingerprint_page(folder: Path, shown: FingerprintResults) -> dict[str, Path]:
    """Write `figures/*.png` and `report.html` into a run folder; returns the figures' paths by name."""
    paths = write_figures(folder, _figures(folder, shown))
    sections = [
        _robustness_section(shown, paths),
        _false_positive_section(shown),
        _quality_section(shown, paths),
        _calibration_section(shown, paths),
        run_section(folder, paths, "Means over each epoch.", _facts(shown)),
    ]
    render_report(
        folder / "report.html",
        title=f"Whose image is it? Keys of {shown.fingerprint['bits']} bits in images of {_generator(shown)}",
        summary=_summary(shown),
        sections=[section for section in sections if section is not None],
    )
    return paths


def _generator(shown: FingerprintResults) -> str:
    return str(shown.fingerprint.get("generator_name") or shown.fingerprint.get("generator") or "a generator")


def _figures(folder: Path, shown: FingerprintResults) -> dict[str, Figure]:
    figures = {}
    if curves := strength_curves(shown.results, shown.conditions):
        figures["robustness"] = robustness_curves(
            curves,
            clean=shown.results.get("test/clean/bit_accuracy"),
            needed=needed_line(shown.fingerprint["bits"], _RATE),
        )
    if bins := _reliability(shown):
        figures["reliability"] = reliability_curves(bins)
    if examples := shown.examples[:_MOST_ROWS]:
        figures["marked_pairs"] = marked_pair_rows(examples, _pictured(shown))
    if training := epoch_means(folder / "logs" / "metrics.csv", _CURVES):
        figures["training"] = training_curves(training)
    return figures


def _pictured(shown: FingerprintResults) -> list[str]:
    """The attacks in the picture of pairs: those of presets first, `clean` not, for that is the marked image itself."""
    presets = other_attacks(shown.conditions)
    grids = [each.name for each in shown.conditions if each.name not in presets and each.kind != CLEAN]
    return shown_attacks(shown.examples[:_MOST_ROWS], [*presets, *grids], _MOST_ATTACKS)


def _summary(shown: FingerprintResults) -> Summary:
    bits = shown.fingerprint["bits"]
    facts = [f"{name} {shown.fingerprint[name]}" for name in ("shift", "sigma", "layout") if name in shown.fingerprint]
    facts += ["centred"] if shown.fingerprint.get("centred") else []
    return Summary(
        text=(
            f"A key of {bits} bits is put into the latent of each image of {_generator(shown)}"
            f"{' (' + ', '.join(facts) + ')' if facts else ''} and read from the finished 8-bit image by the "
            f"{shown.decoder} decoder (loss: {shown.loss}). All numbers are of test images, whose latents and keys no "
            "training has seen."
        ),
        warnings=warnings_of(shown.results, shown.training),
        headlines=fingerprint_headlines(shown.results, shown.conditions, bits),
    )


def _section(title: str, blocks: Sequence[Block | None], intro: str = "") -> Section | None:
    """The section of the blocks that are there; None without any."""
    kept = [block for block in blocks if block is not None]
    return Section(title, kept, intro) if kept else None


def _folded(title: str, table: Table | None) -> Details | None:
    return None if table is None else Details(title, table)


def _robustness_section(shown: FingerprintResults, paths: dict[str, Path]) -> Section | None:
    presets = other_attacks(shown.conditions)
    named = [CLEAN, *presets]
    grids = [each.name for each in shown.conditions if each.name not in named]
    curves = None
    if "robustness" in paths:
        curves = FigureBlock(
            paths["robustness"],
            "Bit accuracy, a mean over images, by strength of the attack. The dashed line is what one image must reach "
            "to count as fingerprinted by matching bits alone; verdicts weigh bits by their log odds and need less.",
            "Curves of bit accuracy against the strength of each attack",
        )
    caption = (
        "Attribution accuracy: share of images with all bits right. TPR: share of images whose key agrees with the "
        "decoded log odds so well that a random key does so at most at this rate; at 1e-12 it is the share named among "
        "1,000,000 users at a family-wise rate of 1e-6. By bits alone: the same from the number of matching bits. FID: "
        "distance of the attacked images to real ones."
    )
    found = {name.rpartition("-")[0] for name in presets}
    told = [f"{preset}: {meaning}" for preset, meaning in PRESETS.items() if preset in found]
    unchanged = unchanged_sentence(shown.results, [each.name for each in shown.conditions])
    return _section(
        "Robustness",
        [
            robustness_table(shown.results, named, caption),
            curves,
            _folded("Every strength as a table", robustness_table(shown.results, grids, caption)),
            _folded(
                "Identification: the best match among N users is the right one",
                identification_table(shown.results, [*named, *grids], "The other users' keys are random."),
            ),
        ],
        intro=f"Attacks act on 8-bit files. {'; '.join(told) + '. ' if told else ''}{unchanged}".strip(),
    )


def _false_positive_section(shown: FingerprintResults) -> Section | None:
    caption = (
        "At most nominal: fail where the whole 95 % interval lies above the nominal rate. Interval holds nominal: one "
        "row in 20 fails by chance, and more where many bits say equally much, so that evidence has ties. An interval "
        "from n negatives cannot tell rates far below 3 / n from 0."
    )
    registries = (
        "Each registry holds one random key, with which all images of a kind are compared: the share of them that are "
        "within the rate, in the mean over registries and in the worst one. Worst expected: what it would be if images "
        "decoded independently. Above nominal: share of registries above the rate. Images without a key decode alike, "
        "so that an unlucky key meets many of them."
    )
    return _section(
        "False positives",
        [
            false_positive_table(shown.results, caption),
            registry_table(shown.results, registries),
            negative_bits_table(shown.results, "Bits that match a random key: one half, whatever the images."),
        ],
        intro=(
            "Images that do not carry the key they are compared with, each with a random key of its own: of the same "
            "generator without fingerprint or with another key, of another generator, and real ones."
        ),
    )


def _quality_section(shown: FingerprintResults, paths: dict[str, Path]) -> Section | None:
    pairs = None
    if "marked_pairs" in paths:
        factor = format_number(difference_factor(shown.examples[:_MOST_ROWS]))
        pairs = FigureBlock(
            paths["marked_pairs"],
            "Each row: an image, the image of the same latent with a key, their difference (marked − unmarked, "
            f"×{factor}, grey is 0), and the marked image after attacks.",
            "Rows of unmarked, marked and attacked images and differences",
        )
    caption = "FIDs of few images are biased upwards: compare those of equal n, and with the floor."
    return _section("Quality", [quality_table(shown.results, caption), pairs])


def _reliability(shown: FingerprintResults) -> dict[str, list[tuple[float, float, int]]]:
    """Bins of stated probability by condition: those outside the grids, or the first ones of all."""
    found = {}
    for name in [CLEAN, *(other_attacks(shown.conditions) or [each.name for each in shown.conditions[1:]])]:
        error = shown.results.get(f"test/{name}/calibration_error")
        if error is not None and error.details.get("reliability"):
            found[name] = [
                (float(stated), float(right), int(count)) for stated, right, count in error.details["reliability"]
            ]
    return dict(list(found.items())[:_MOST_PANELS])


def _calibration_section(shown: FingerprintResults, paths: dict[str, Path]) -> Section | None:
    named = [CLEAN, *other_attacks(shown.conditions)]
    caption = (
        "Cross-entropy: 1 for coins, 0 for certainty that is always right. Calibration error: mean distance between "
        "a bit's stated probability and how often such bits are right, above 0 by chance even when calibrated. "
        "Overconfidence: mean stated probability less share of right bits."
    )
    curves = None
    if "reliability" in paths:
        curves = FigureBlock(
            paths["reliability"],
            "How often bits are right against the probability that the decoder states, in ten bins; dots are as large "
            "as the share of bits. Below the diagonal the decoder is too sure.",
            "Share of right bits against their stated probability, by condition",
        )
    return _section("Calibration", [calibration_table(shown.results, named, caption), curves])


def _facts(shown: FingerprintResults) -> list[Block]:
    facts = {**shown.fingerprint, "decoder": shown.decoder, "loss": shown.loss}
    parts = {"Fingerprint": facts, "Settings": shown.settings, "Data": shown.data}
    return [Details(title, pairs) for title, pairs in parts.items() if pairs]
