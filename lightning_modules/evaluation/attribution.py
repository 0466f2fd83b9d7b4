"""What a test of an attributor measures: accuracies of the attributor and its controls, FDR, each with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_modules.metrics.attribution import attribution_estimates, attribution_metrics
from lightning_modules.metrics.fdr import FrechetDistanceRatio
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.metrics.seed_accuracy import SeedAccuracy


class AttributionEvaluation(nn.Module):
    """Metrics over the test split.

    Args:
        sources: Names, label = position.
        main: Name of the attributor's network.
        compared: Networks of one kind by what they see, so that their accuracies compare.
        halvings: Random halvings that FDR is averaged over.
        seed: Of the halvings.
    """

    def __init__(
        self, sources: Sequence[str], main: str, compared: Mapping[str, list[str]], halvings: int, seed: int
    ) -> None:
        super().__init__()
        self.sources, self.main, self.compared = list(sources), main, dict(compared)
        self.metrics = attribution_metrics(len(sources), "test/")
        self.controls = nn.ModuleDict({shown: SeedAccuracy(len(names)) for shown, names in compared.items()})
        self.fdr = FrechetDistanceRatio(len(sources), seeds=halvings, seed=seed, class_names=self.sources)

    def reset(self) -> None:
        """Forget every image."""
        for metric in (self.metrics, self.fdr, *self.controls.values()):
            metric.reset()  # type: ignore[operator]

    def update(self, outputs: Mapping[str, tuple[Tensor, Tensor]], labels: Tensor, index: Tensor) -> None:
        """Add a batch.

        Args:
            outputs: Logits (N, K) and features (N, d) by network.
            labels: (N,).
            index: (N,), places of the images in the split.
        """
        logits, features = outputs[self.main]
        self.metrics.update(logits, labels)
        self.fdr.update(features, labels, index)
        for shown, metric in self.controls.items():
            predicted = torch.stack([outputs[name][0].argmax(dim=1) for name in self.compared[shown]])
            metric.update(predicted, labels)  # type: ignore[operator]

    def estimates(self) -> dict[str, Estimate]:
        """Every number with its interval; all processes must call it together, and get the same."""
        found = attribution_estimates(self.metrics, self.sources)
        found["test/fdr"], found["test/fdr_null"] = self.fdr.estimate(), self.fdr.null_estimate()
        for shown, metric in self.controls.items():
            found[f"test/control/{shown}/accuracy"] = metric.estimate()  # type: ignore[operator]
        return found
