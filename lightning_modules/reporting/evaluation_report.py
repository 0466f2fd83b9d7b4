"""What a test leaves in its folder, made from the folder's blocks alone: numbers, table, rows, figures and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_modules.common.files import write_text
from lightning_modules.evaluation.attribution import clean_answers, shown_features, stored_examples
from lightning_modules.evaluation.blocks import EvaluationFolder
from lightning_modules.evaluation.conditions import CLEAN, Condition
from lightning_modules.evaluation.explanations import stored_explanations
from lightning_modules.evaluation.fingerprint import stored_pairs
from lightning_modules.evaluation.results import ATTRIBUTION, FINGERPRINT, fold_results, result_rows
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.attribution_page import AttributionResults, ExampleImages, write_attribution_page
from lightning_modules.reporting.findings import TrainingState
from lightning_modules.reporting.fingerprint_page import FingerprintResults, write_fingerprint_page
from lightning_modules.reporting.long_table import RESULTS_FILE, Result, results_csv
from lightning_modules.reporting.row_scores import ROWS_FILE
from lightning_modules.reporting.run_files import METRICS_FILE, write_jsonl, write_metrics

SHOWN_FEATURES = 1500  # t-SNE stays legible, and quick
_WHOLE = {ATTRIBUTION: "test", FINGERPRINT: "marked"}


def write_report(folder: Path, results: Mapping[str, Estimate] | None = None) -> dict[str, Path]:
    """Write all results of a finished evaluation into its folder; the same bytes each time.

    Args:
        folder: the run folder.
        results: what `fold_results` gave, where it was called before.

    Returns:
        The figures' paths by name.

    Raises:
        EvaluationError: the folder holds no evaluation, or an unfinished one.
    """
    stored = EvaluationFolder(folder)
    stored.require_whole()
    evaluation = stored.evaluation
    results = fold_results(stored) if results is None else results
    write_jsonl(folder / ROWS_FILE, result_rows(stored))
    table = long_table(results, _conditions(stored), _WHOLE[evaluation.kind])
    write_text(folder / RESULTS_FILE, results_csv(table))
    figures = (_attribution if evaluation.kind == ATTRIBUTION else _fingerprint)(folder, stored, dict(results))
    write_metrics(folder / METRICS_FILE, results)  # last: a folder with it is finished
    return figures


def long_table(results: Mapping[str, Estimate], conditions: Sequence[Condition], whole: str) -> list[Result]:
    """Results by part, condition and metric.

    Parts: that of the test as a `whole`, `control/raw`, `source/gan-a` (its images alone), `trivial/...`,
    `negatives/real`, `quality`.
    """
    by_name = {condition.name: condition for condition in conditions}
    lines = []
    for name, estimate in results.items():
        rest = name.removeprefix("test/")
        attack = next((each for each in by_name if rest.startswith(f"{each}/")), None)
        part, _, metric = (rest if attack is None else rest[len(attack) + 1 :]).rpartition("/")
        if part == "recall":
            part, metric = f"source/{metric}", "recall"
        under = by_name[attack or CLEAN]
        lines.append(Result(part or whole, under.name, under.kind, under.strength, str(under.seed), metric, estimate))
    return lines


def _attribution(folder: Path, stored: EvaluationFolder, results: dict[str, Estimate]) -> dict[str, Path]:
    about = stored.evaluation.report
    features, labels = shown_features(stored, SHOWN_FEATURES)
    confusion, distances = clean_answers(stored)
    examples = {
        label: [
            ExampleImages(index, found["image"].float() / 255, found.get("nearest"), found["artifact"])
            for index, found in entries
        ]
        for label, entries in stored_examples(stored).items()
    }
    shown = AttributionResults(
        results=results,
        conditions=_conditions(stored),
        confusion=confusion,
        distances=distances,
        sources=stored.evaluation.settings["sources"],
        source_info=about["source_info"],
        features=features,
        labels=labels,
        examples=examples,
        settings=about["settings"],
        data=about["data"],
        explained=stored_explanations(stored),
        unknown=stored.evaluation.settings.get("unknown_sources", []),
        training=TrainingState.from_json(about["training"]),
    )
    return write_attribution_page(folder, shown)


def _fingerprint(folder: Path, stored: EvaluationFolder, results: dict[str, Estimate]) -> dict[str, Path]:
    about = stored.evaluation.report
    shown = FingerprintResults(
        results=results,
        conditions=_conditions(stored),
        examples=stored_pairs(stored),
        settings=about["settings"],
        fingerprint=about["fingerprint"],
        data=about["data"],
        decoder=about["decoder"],
        loss=about["loss"],
        training=TrainingState.from_json(about["training"]),
    )
    return write_fingerprint_page(folder, shown)


def _conditions(stored: EvaluationFolder) -> list[Condition]:
    return [Condition.from_json(entry) for entry in stored.evaluation.conditions]
