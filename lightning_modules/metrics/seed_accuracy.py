"""Accuracy of several trainings of one network on the same images: one mean, two sources of spread."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.metrics.frechet import float64_scalar
from lightning_modules.metrics.intervals import Estimate, mean_and_std, percent, wilson
from lightning_modules.metrics.key_matches import effective_trials


class SeedAccuracy(Metric):
    """Mean accuracy over seeds, with its interval over images and its spread over seeds.

    The *interval* says how far the mean of these very networks may lie from their mean on other images of the same
    kind: Wilson's. With several seeds, the answers to one image are no independent trials, for what is hard for one
    seed is hard for the others; an image then counts as one cluster, with the effective number of trials of
    `BitAccuracy`. The *spread*, `std` in the details, is the standard deviation over seeds on these very images; one
    seed has none. All state is integer counts, so 1 process and 8 give the same digits.

    Raises:
        ValueError: no seed.
    """

    higher_is_better = True
    full_state_update = False

    images: Tensor
    right: Tensor

    def __init__(self, seeds: int, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if seeds < 1:
            raise ValueError(f"found {seeds} seeds, expected at least 1")
        self.seeds, self.confidence = seeds, confidence
        self._counts: tuple[list[int], list[int]] = ([], [])  # filled by compute
        self.add_state("images", default=torch.zeros(seeds + 1, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("right", default=torch.zeros(seeds, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, labels: Tensor) -> None:
        """Add images: `predicted` `(S, B)` labels, one row per seed, and the true `labels` `(B,)`.

        Raises:
            ValueError: shapes other than these.
        """
        if predicted.shape != (self.seeds, *labels.shape):
            found = f"found predictions {tuple(predicted.shape)} and labels {tuple(labels.shape)}"
            raise ValueError(f"{found}, expected ({self.seeds}, B) and (B,)")
        hits = predicted == labels  # (S, B)
        self.images += torch.bincount(hits.sum(dim=0), minlength=self.seeds + 1).to(self.images.device)
        self.right += hits.sum(dim=1).to(self.right.device)

    def compute(self) -> Tensor:
        """Mean accuracy: scalar float64, NaN without images."""
        self._counts = (self.images.tolist(), self.right.tolist())
        n = sum(self._counts[0])
        value = sum(self._counts[1]) / (n * self.seeds) if n else math.nan
        return float64_scalar(value, self.device)

    def estimate(self) -> Estimate:
        """The mean with its interval over images; `seeds`, their `std` and `values` in the details.

        All processes must call it together, as `compute`.
        """
        value = float(self.compute())
        images, right = self._counts
        n = sum(images)
        if not n:
            return Estimate(value, 0.0, 1.0, 0, "none", {"seeds": self.seeds})
        values = [hits / n for hits in right]
        trials = float(n) if self.seeds == 1 else effective_trials(images, self.confidence)
        low, high = wilson(value * trials, trials, self.confidence)
        details = {"seeds": self.seeds, "std": mean_and_std(values)[1], "values": values}
        return Estimate(value, low, high, n, f"wilson over images {percent(self.confidence)}", details)
