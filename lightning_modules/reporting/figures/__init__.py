"""Figures of a report, each a function that returns a matplotlib `Figure`."""

from lightning_modules.reporting.figures.bars import method_accuracy, per_source_accuracy
from lightning_modules.reporting.figures.confusion import confusion_matrix
from lightning_modules.reporting.figures.curves import training_curves
from lightning_modules.reporting.figures.embedding import tsne, tsne_figure
from lightning_modules.reporting.figures.grid import ArtifactRow, artifact_rows, image_grid
from lightning_modules.reporting.figures.robustness import attack_strength, robustness_curves
from lightning_modules.reporting.figures.style import SourceStyle, source_styles, to_png
from lightning_modules.reporting.figures.trade_off import TradeOffPoint, trade_off_figure
from lightning_modules.reporting.figures.twins import TwinExample, difference_factor, shown_attacks, twin_rows

__all__ = [
    "ArtifactRow",
    "SourceStyle",
    "TradeOffPoint",
    "TwinExample",
    "artifact_rows",
    "attack_strength",
    "confusion_matrix",
    "difference_factor",
    "image_grid",
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
    "twin_rows",
]
