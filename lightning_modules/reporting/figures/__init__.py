"""Figures of a report, each a function that returns a matplotlib `Figure`."""

from lightning_modules.reporting.figures.bars import method_accuracy, per_source_accuracy
from lightning_modules.reporting.figures.confusion import confusion_matrix
from lightning_modules.reporting.figures.curves import training_curves
from lightning_modules.reporting.figures.embedding import tsne, tsne_figure
from lightning_modules.reporting.figures.grid import ArtifactRow, artifact_rows, image_grid
from lightning_modules.reporting.figures.style import SourceStyle, source_styles, to_png

__all__ = [
    "ArtifactRow",
    "SourceStyle",
    "artifact_rows",
    "confusion_matrix",
    "image_grid",
    "method_accuracy",
    "per_source_accuracy",
    "source_styles",
    "to_png",
    "training_curves",
    "tsne",
    "tsne_figure",
]
