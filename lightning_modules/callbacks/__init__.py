"""Lightning callbacks: what an evaluation leaves in its run folder."""

from lightning_modules.callbacks.attribution_report import AttributionReport
from lightning_modules.callbacks.attribution_rows import PredictionRows
from lightning_modules.callbacks.fingerprint_report import FingerprintReport
from lightning_modules.callbacks.trivial_baselines import TrivialBaselines
from lightning_modules.callbacks.verdict_rows import VerdictRows

__all__ = ["AttributionReport", "FingerprintReport", "PredictionRows", "TrivialBaselines", "VerdictRows"]
