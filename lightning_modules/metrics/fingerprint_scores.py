"""The metrics of decoded keys, of marked images and of negatives, made in one place."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, cast

from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_modules.metrics.evidence import p_values as key_p_values
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.metrics.key_calibration import KeyCalibrationError, KeyCrossEntropy
from lightning_modules.metrics.key_evidence import FalsePositiveRate, Identification, OfPValues, TruePositiveRate
from lightning_modules.metrics.key_matches import (
    AttributionAccuracy,
    BitAccuracy,
    MatchedTruePositiveRate,
    MatchingBits,
)

MATCHED_RATE = 1e-6
"""Where matching bits alone are shown beside log odds."""


def key_metrics(
    bits: int,
    users: Sequence[int] = (10, 1_000, 1_000_000),
    false_positive_rates: Sequence[float] = (1e-3, 1e-6, 1e-12),
    prefix: str | None = None,
    **kwargs: Any,
) -> MetricCollection:
    """What decoded keys are measured with, under one attack; names begin with the prefix.

    Further arguments are torchmetrics' own (`sync_on_compute`).

    Returns:
        A collection of scalars for `add_images`: `bit_accuracy`, `attribution_accuracy`, `identification_<N>` among N
        users, `tpr_at_<rate>`, `tpr_bits_at_1e-6` (by matching bits alone, for comparison), `cross_entropy` (bits) and
        `calibration_error`. `tpr_at_1e-12` is the share named among 1,000,000 users at a family-wise rate of 1e-6.

    Raises:
        ValueError: a number of bits or users, or a rate, that makes no sense.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "bit_accuracy": BitAccuracy(bits, **kwargs),
        "attribution_accuracy": AttributionAccuracy(bits, **kwargs),
        **{f"identification_{n}": Identification(bits, n, **kwargs) for n in users},
        **{f"tpr_at_{rate_name(rate)}": TruePositiveRate(bits, rate, **kwargs) for rate in false_positive_rates},
        f"tpr_bits_at_{rate_name(MATCHED_RATE)}": MatchedTruePositiveRate(bits, MATCHED_RATE, **kwargs),
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


def add_images(metrics: MetricCollection, logits: Tensor, keys: Tensor, p_values: Tensor | None = None) -> None:
    """Add images to `key_metrics` or `negative_metrics`.

    Args:
        metrics: Those of a condition, or of a kind of negative.
        logits: Log odds of a 1 against a 0, `(B, m)`.
        keys: The keys to compare with, bool `(B, m)`.
        p_values: Of these keys, float64 `(B,)`; None computes them.
    """
    if p_values is None:
        p_values = key_p_values(logits, keys)
    metrics.update(logits=logits, keys=keys, p_values=p_values)  # each takes what it measures


def key_estimates(metrics: MetricCollection) -> dict[str, Estimate]:
    """Every number of `key_metrics` or `negative_metrics` with its interval, by its name in the collection.

    All processes must call it together.
    """
    members = cast(dict[str, MatchingBits | OfPValues | KeyCrossEntropy | KeyCalibrationError], dict(metrics.items()))
    return {name: metric.estimate() for name, metric in members.items()}


def rate_name(rate: float) -> str:
    """`0.001` as `"1e-3"`: without a point, which names of metrics cannot hold."""
    return f"{Decimal(repr(rate)).normalize():e}".replace(".", "_")


NEGATIVES = ("unmarked", "wrong_key", "other_generator", "real")
NEGATIVE_RATES = (5e-2, 1e-3, 1e-6)
