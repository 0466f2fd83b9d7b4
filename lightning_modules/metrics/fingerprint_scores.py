"""The metrics of decoded keys, of marked images and of negatives, made in one place."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, cast

from torchmetrics import Metric, MetricCollection

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
    **kwargs: Any,
) -> MetricCollection:
    """What decoded keys are measured with, under one attack; names begin with the prefix.

    Further arguments are torchmetrics' own (`sync_on_compute`).

    Returns:
        A collection of scalars updated with `(logits (B, m), keys (B, m))`: `bit_accuracy`, `attribution_accuracy`,
        `identification_<N>` among N users, `tpr_at_<rate>`, `cross_entropy` (bits) and `calibration_error`.

    Raises:
        ValueError: a number of bits or users, or a rate, that makes no sense.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "bit_accuracy": BitAccuracy(bits, **kwargs),
        "attribution_accuracy": AttributionAccuracy(bits, **kwargs),
        **{f"identification_{n}": Identification(bits, n, **kwargs) for n in users},
        **{f"tpr_at_{rate_name(rate)}": TruePositiveRate(bits, rate, **kwargs) for rate in false_positive_rates},
        "cross_entropy": KeyCrossEntropy(bits, **kwargs),
        "calibration_error": KeyCalibrationError(bits, **kwargs),
    }
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)  # as attribution_metrics


def negative_metrics(
    bits: int, false_positive_rates: Sequence[float] = (1e-3, 1e-6), prefix: str | None = None, **kwargs: Any
) -> MetricCollection:
    """What negatives are measured with: images that do not carry the key they are compared with, a random one each.

    Returns:
        As `key_metrics`: `false_positive_rate_<rate>`, and `bit_accuracy`, which is 1/2 for negatives.

    Raises:
        ValueError: a number of bits, or a rate, that makes no sense.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        **{
            f"false_positive_rate_{rate_name(rate)}": FalsePositiveRate(bits, rate, **kwargs)
            for rate in false_positive_rates
        },
        "bit_accuracy": BitAccuracy(bits, **kwargs),
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
