"""Lightning callbacks: what an evaluation leaves in its run folder."""

from lightning_modules.callbacks.evaluation import EvaluationReport
from lightning_modules.callbacks.predictions import PredictionRows

__all__ = ["EvaluationReport", "PredictionRows"]
