"""The Frechet distance between two samples."""

from __future__ import annotations

from torch import Tensor

from lightning_modules.metrics.frechet import GaussianFactor


def frechet_distance_of_features(features1: Tensor, features2: Tensor) -> Tensor:
    return GaussianFactor.from_features(features1).distance(GaussianFactor.from_features(features2))
