"""Lightning callbacks: what an evaluation leaves in its run folder."""

from lightning_modules.callbacks.prediction_rows import PredictionRows, VerdictRows
from lightning_modules.callbacks.reports import EvaluationReport, not_there_yet
from lightning_modules.callbacks.trivial_baselines import TrivialBaselines

__all__ = [
    "EvaluationReport",
    "PredictionRows",
    "TrivialBaselines",
    "VerdictRows",
    "not_there_yet",
]
