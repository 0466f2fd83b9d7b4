"""Frechet distances and their ratio (FDR), attribution metrics, confidence intervals: pure torch and torchmetrics."""

from lightning_modules.metrics.attribution import (
    CrossEntropy,
    attribution_estimates,
    attribution_metrics,
    balanced_accuracy,
    estimates_from_confusion,
    scalars,
)
from lightning_modules.metrics.fdr import FrechetDistanceRatio
from lightning_modules.metrics.fid import FrechetImageDistance
from lightning_modules.metrics.frechet import (
    GaussianFactor,
    frechet_distance,
    pairwise_frechet,
)
from lightning_modules.metrics.intervals import (
    Estimate,
    clopper_pearson,
    mean_and_std,
    proportion,
    wilson,
)
from lightning_modules.metrics.seed_accuracy import SeedAccuracy
from lightning_modules.metrics.trivial_features import (
    TRIVIAL_FEATURES,
    best_trivial,
    trivial_accuracies,
    trivial_features,
)

__all__ = [
    "TRIVIAL_FEATURES",
    "CrossEntropy",
    "Estimate",
    "FrechetDistanceRatio",
    "FrechetImageDistance",
    "GaussianFactor",
    "SeedAccuracy",
    "attribution_estimates",
    "attribution_metrics",
    "balanced_accuracy",
    "best_trivial",
    "clopper_pearson",
    "estimates_from_confusion",
    "frechet_distance",
    "mean_and_std",
    "pairwise_frechet",
    "proportion",
    "scalars",
    "trivial_accuracies",
    "trivial_features",
    "wilson",
]
