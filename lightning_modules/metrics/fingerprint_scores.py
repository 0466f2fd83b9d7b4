"""All that a fingerprint evaluation counts: keys under every attack, negatives, and the quality of marked images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, cast

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_modules.metrics.fid import FrechetImageDistance
from lightning_modules.metrics.image_quality import MeanOfPairs, PairScore, psnr, ssim
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.metrics.key_calibration import KeyCalibrationError, KeyCrossEntropy
from lightning_modules.metrics.key_matches import (
    AttributionAccuracy,
    BitAccuracy,
    FalsePositiveRate,
    Identification,
    MatchingBits,
    TruePositiveRate,
)


def key_metrics(
    bits: int,
    users: Sequence[int] = (10, 1_000, 1_000_000),
    false_positive_rates: Sequence[float] = (1e-3, 1e-6),
    prefix: str | None = None,
) -> MetricCollection:
    """What decoded keys are measured with, under one attack; names begin with the prefix.

    Returns:
        A collection of scalars updated with `(logits (B, m), keys (B, m))`: `bit_accuracy`, `attribution_accuracy`,
        `identification_<N>` among N users, `tpr_at_<rate>`, `cross_entropy` (bits) and `calibration_error`.

    Raises:
        ValueError: a number of bits or users, or a rate, that makes no sense.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "bit_accuracy": BitAccuracy(bits),
        "attribution_accuracy": AttributionAccuracy(bits),
        **{f"identification_{n}": Identification(bits, n) for n in users},
        **{f"tpr_at_{rate_name(rate)}": TruePositiveRate(bits, rate) for rate in false_positive_rates},
        "cross_entropy": KeyCrossEntropy(bits),
        "calibration_error": KeyCalibrationError(bits),
    }
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)  # as attribution_metrics


def negative_metrics(
    bits: int, false_positive_rates: Sequence[float] = (1e-3, 1e-6), prefix: str | None = None
) -> MetricCollection:
    """What negatives are measured with: images that do not carry the key they are compared with, a random one each.

    Returns:
        As `key_metrics`: `false_positive_rate_<rate>`, and `bit_accuracy`, which is 1/2 for negatives.

    Raises:
        ValueError: a number of bits, or a rate, that makes no sense.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        **{f"false_positive_rate_{rate_name(rate)}": FalsePositiveRate(bits, rate) for rate in false_positive_rates},
        "bit_accuracy": BitAccuracy(bits),
    }
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)


def key_estimates(metrics: MetricCollection) -> dict[str, Estimate]:
    """Every number of `key_metrics` or `negative_metrics` with its interval, by its name in the collection.

    All processes must call it together.
    """
    members = cast(dict[str, MatchingBits | KeyCrossEntropy | KeyCalibrationError], dict(metrics.items()))
    return {name: metric.estimate() for name, metric in members.items()}


def rate_name(rate: float) -> str:
    """`0.001` as `"1e-3"`: without a point, which names of metrics cannot hold."""
    return f"{Decimal(repr(rate)).normalize():e}".replace(".", "_")


NEGATIVES = ("unmarked", "wrong_key", "other_generator", "real")
NEGATIVE_RATES = (5e-2, 1e-3, 1e-6)
DISTANCES = {
    "fid_before": ("real", "unmarked"),
    "fid_after": ("real", "marked"),
    "fid_own": ("unmarked_others", "marked"),
    "fid_own_floor": ("unmarked_others", "unmarked"),
}
"""Frechet distances: which set is the reference and which is compared with it."""


class FingerprintScores(nn.Module):
    """The metrics of one evaluation.

    Args:
        features: extractor of the Frechet distances (`metrics.extractors`), or None for none.
        perceptual: perceptual distance of pairs, under the name it is reported by; None for none.
        equal: images of each set that enter a Frechet distance, the same number for all so that they compare.
    """

    def __init__(
        self,
        bits: int,
        attacks: Sequence[str],
        features: str | None,
        perceptual: tuple[str, PairScore] | None,
        equal: int,
    ) -> None:
        super().__init__()
        self.attacks, self.equal = list(attacks), equal
        self.keys = nn.ModuleList(key_metrics(bits, prefix=f"test/{name}/") for name in attacks)
        self.negatives = nn.ModuleDict()
        for kind in (*NEGATIVES, "all"):
            self.negatives[kind] = negative_metrics(bits, NEGATIVE_RATES, prefix=f"test/negatives/{kind}/")
        shared = {"psnr": psnr, "ssim": ssim} | ({perceptual[0]: perceptual[1]} if perceptual else {})
        self.pairs = nn.ModuleDict({name: MeanOfPairs(score) for name, score in shared.items()})
        self.distances = nn.ModuleDict({name: FrechetImageDistance(features) for name in DISTANCES if features})

    def update_keys(self, attack: str, logits: Tensor, keys: Tensor) -> None:
        """Add decoded marked images `(n, m)` under one attack, with the keys they carry."""
        cast(Any, self.keys[self.attacks.index(attack)]).update(logits, keys)

    def update_negatives(self, kind: str, logits: Tensor, keys: Tensor) -> None:
        """Add decoded negatives `(n, m)`, each with a random key of its own."""
        for name in (kind, "all"):
            cast(Any, self.negatives[name]).update(logits, keys)

    def update_pairs(self, marked: Tensor, unmarked: Tensor) -> None:
        """Add marked images `(n, 3, H, W)` in [0, 1] and the unmarked ones of the same latents."""
        for metric in cast(Any, self.pairs).values():
            metric.update(marked, unmarked)

    def update_set(self, name: str, images: Tensor, position: Tensor) -> None:
        """Add images of the set `marked`, `unmarked` or `real` with their positions in it, int64 `(n,)`.

        The first `equal` images of each set count; of the unmarked, the second `equal` are `unmarked_others`.
        """
        for part, first in ((name, 0), (f"{name}_others", self.equal)):
            chosen = (position >= first) & (position < first + self.equal)
            wanted = cast(Any, self.distances).items() if chosen.any() else ()
            for distance, metric in wanted:
                if part in DISTANCES[distance]:
                    real = part == DISTANCES[distance][0]
                    metric.update(images[chosen], real=real, index=position[chosen])

    def estimates(self) -> dict[str, Estimate]:
        """Every number with its interval and n, by name. All processes must call it together."""
        found: dict[str, Estimate] = {}
        with warnings.catch_warnings():  # a process without images must compute too: others may have some
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            for metrics in cast(Any, (*self.keys, *self.negatives.values())):
                estimates = key_estimates(metrics)
                if any(estimate.n for estimate in estimates.values()):
                    found |= estimates
            for name, metric in cast(Any, (*self.pairs.items(), *self.distances.items())):
                found[f"test/quality/{name}"] = metric.estimate()
        return found
