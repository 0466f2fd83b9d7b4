"""Figures of a report, each a function that returns a matplotlib `Figure`."""

from lightning_modules.reporting.figures.artifact_rows import ArtifactRow, artifact_rows
from lightning_modules.reporting.figures.bars import confusion_matrix, method_accuracy, per_source_accuracy
from lightning_modules.reporting.figures.marked_pairs import (
    MarkedPair,
    difference_factor,
    marked_pair_rows,
    shown_attacks,
)
from lightning_modules.reporting.figures.robustness import attack_strength, robustness_curves, training_curves
from lightning_modules.reporting.figures.style import SourceStyle, source_styles, to_png
from lightning_modules.reporting.figures.trade_off import TradeOffPoint, trade_off_figure
from lightning_modules.reporting.figures.tsne import tsne, tsne_figure

__all__ = [
    "ArtifactRow",
    "MarkedPair",
    "SourceStyle",
    "TradeOffPoint",
    "artifact_rows",
    "attack_strength",
    "confusion_matrix",
    "difference_factor",
    "marked_pair_rows",
    "method_accuracy",
    "per_source_accuracy",
    "robustness_curves",
    "shown_attacks",
    "source_styles",
    "to_png",
    "trade_off_figure",
    "training_curves",
    "tsne",
    "tsne_figure",
]
