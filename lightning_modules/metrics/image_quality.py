"""How far a marked image is from the unmarked one: PSNR, SSIM, a perceptual distance, as means with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_modules.metrics.intervals import Estimate, percent, student_interval

PairScore = Callable[[Tensor, Tensor], Tensor]
"""Images `(n, 3, H, W)` marked and unmarked, in [0, 1] to one number a pair, `(n,)`."""


class MeanOfPairs(Metric):
    """Mean of a score of pairs of images, with its Student interval of the nominal coverage `confidence`."""

    full_state_update = False
    higher_is_better: bool | None = None

    total: Tensor
    squares: Tensor
    pairs: Tensor

    def __init__(self, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.confidence = confidence
        for name in ("total", "squares"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pairs", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self._moments = (0.0, 0.0, 0)

    def update(self, values: Tensor) -> None:
        """Add the scores of pairs `(n,)`."""
        values = values.detach().double()
        self.total += values.sum()
        self.squares += values.square().sum()
        self.pairs += len(values)

    def compute(self) -> Tensor:
        """The mean: scalar float64, NaN without pairs."""
        self._moments = (float(self.total), float(self.squares), int(self.pairs))
        return self.total / self.pairs

    def estimate(self) -> Estimate:
        """The mean with its interval. All processes must call it together."""
        self.compute()
        total, squares, n = self._moments
        if n < 2:
            return Estimate(total / n if n else math.nan, None, None, n, "none", {})
        mean = total / n
        half, std = student_interval(mean, squares, n, self.confidence)
        return Estimate(mean, mean - half, mean + half, n, f"student t {percent(self.confidence)}", {"std": std})


def psnr(marked: Tensor, unmarked: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a peak of 1, at most 100, `(n,)`."""
    return -10.0 * torch.log10((marked - unmarked).square().flatten(1).mean(dim=1).clamp_min(1e-10))


def ssim(marked: Tensor, unmarked: Tensor) -> Tensor:
    """Structural similarity with an 11-pixel Gaussian window (Wang et al. 2004), borders reflected, `(n,)`."""
    value = structural_similarity_index_measure(marked, unmarked, data_range=1.0, reduction="none")
    assert isinstance(value, Tensor)
    return value.reshape(len(marked))
