"""The metrics of an attributor, made in one place, and their numbers with intervals.

Every estimate is taken from the confusion matrix (integer counts, so exact under any number of processes), in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lightning_modules.metrics.frechet import as_float64, float64_scalar
from lightning_modules.metrics.intervals import Estimate, percent, proportion, student_interval, wilson

# Sums are integers: adding floats in another order (batches, processes) changes the last digits, adding integers does
# not. At these units a loss is rounded to 2e-10, and 1e6 samples of the largest loss kept still fit into 63 bits.
_LOSS_UNIT = 2.0**-32
_SQUARE_UNIT = 2.0**-20
_LARGEST = 1000.0


class CrossEntropy(Metric):
    """Mean of -ln p(label) over samples, natural logarithm, from unnormalised logits.

    Sums are kept in fixed point (see above), so 1 process and 8 give the same digits. A sample whose logits are NaN
    makes the mean NaN; a loss above 1000 (a probability below 1e-434) counts as 1000. `confidence` is the nominal
    coverage of the interval of `estimate`.
    """

    higher_is_better = False
    full_state_update = False
    unit = "nat"

    loss_sum: Tensor
    square_sum: Tensor
    count: Tensor
    undefined: Tensor

    def __init__(self, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.confidence = confidence
        self._moments = (0, 0.0)  # number of samples and sum of squared losses, filled by compute
        for name in ("loss_sum", "square_sum", "count", "undefined"):
            self.add_state(name, default=torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch: `preds` `(B, K)` logits, `target` `(B,)` integer labels."""
        self._add(as_float64(F.cross_entropy(preds.detach().float(), target, reduction="none")))

    def _add(self, loss: Tensor) -> None:
        """Add the losses of samples, float64 `(B,)`."""
        undefined = loss.isnan()
        loss = torch.where(undefined, 0.0, loss.clamp(max=_LARGEST))
        for state, values in ((self.loss_sum, loss / _LOSS_UNIT), (self.square_sum, loss.square() / _SQUARE_UNIT)):
            state += values.round().long().sum().to(state.device)
        self.count += len(loss)
        self.undefined += undefined.sum().to(self.undefined.device)

    def compute(self) -> Tensor:
        """Mean cross entropy: scalar float64; NaN without samples or with an undefined one."""
        self._moments = (int(self.count), int(self.square_sum) * _SQUARE_UNIT)
        mean = math.nan if self.undefined or not self.count else self.loss_sum.item() * _LOSS_UNIT / self.count.item()
        return float64_scalar(mean, self.device)

    def estimate(self) -> Estimate:
        """The mean with its Student t interval over samples. All processes must call it together, as `compute`."""
        mean = float(self.compute())
        n, squares = self._moments
        if n < 2 or math.isnan(mean):
            return Estimate(mean, None, None, n, "none", {"unit": self.unit})
        half, _ = student_interval(mean, squares, n, self.confidence)
        interval = f"student t {percent(self.confidence)}"
        return Estimate(mean, max(0.0, mean - half), mean + half, n, interval, {"unit": self.unit})


SCALARS = ("accuracy", "accuracy_macro", "cross_entropy")  # what can be logged as one number


def attribution_metrics(num_classes: int, prefix: str | None = None, **kwargs: Any) -> MetricCollection:
    """What an attributor is measured with in one stage; names begin with the prefix, `"test/"` for instance.

    Further arguments are torchmetrics' own (`sync_on_compute`).

    Returns:
        A collection updated with `(logits (B, K), labels (B,))`: `accuracy` (micro), `accuracy_macro` (mean recall),
        `recall` `(K,)`, `cross_entropy` (nats) and `confusion_matrix` `(K, K)`, rows = true source, columns =
        predicted.

    Raises:
        ValueError: fewer than two classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; attribution needs at least 2 sources")
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro", **kwargs),
        "accuracy_macro": MulticlassAccuracy(num_classes, average="macro", **kwargs),
        "recall": MulticlassAccuracy(num_classes, average="none", **kwargs),
        "cross_entropy": CrossEntropy(**kwargs),
        "confusion_matrix": MulticlassConfusionMatrix(num_classes, **kwargs),
    }
    # No compute groups: a grouped member's state is filled only through the collection, while a logger takes the
    # members one by one.
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)


def scalars(metrics: MetricCollection) -> dict[str, Metric]:
    """The members of `attribution_metrics` that are one number, under their prefixed names: what `log_dict` accepts."""
    return {f"{metrics.prefix or ''}{name}": metrics[name] for name in SCALARS}


def attribution_estimates(
    metrics: MetricCollection, class_names: Sequence[str], confidence: float = 0.95
) -> dict[str, Estimate]:
    """Every number of `attribution_metrics` with its interval, under the collection's prefix.

    All processes must call it together. The entries are those of `estimates_from_confusion`, and `cross_entropy`.
    """
    confusion = cast(MulticlassConfusionMatrix, metrics["confusion_matrix"]).compute()
    found = estimates_from_confusion(confusion, class_names, confidence)
    found["cross_entropy"] = cast(CrossEntropy, metrics["cross_entropy"]).estimate()
    return {f"{metrics.prefix or ''}{name}": estimate for name, estimate in found.items()}


def estimates_from_confusion(
    confusion: Tensor, class_names: Sequence[str], confidence: float = 0.95
) -> dict[str, Estimate]:
    """Accuracies, recalls and chance levels of a `(K, K)` matrix of counts, rows = true source, columns = predicted.

    Returns:
        - `accuracy`: share of images named rightly, Wilson interval; the two chance levels in its details;
        - `accuracy_macro`: mean recall over sources that have images. The recalls are independent proportions; their
          Wilson intervals are combined by MOVER (Zou and Donner, "Construction of confidence limits about effect
          measures", Statistics in Medicine 2008): each end lies sqrt(sum over sources of the squared distance between
          recall and that end of its interval) / K from the mean. Unlike the delta method this gives a source that is
          named rightly every time its due uncertainty;
        - `recall/<source>`: share of that source's images named rightly, Wilson interval; NaN for a source without
          images;
        - `chance`: 1/K, the accuracy of guessing evenly; no interval, it is known;
        - `majority`: the largest source's share, the accuracy of always naming it.

    Raises:
        ValueError: not a square matrix with one name per row, or no images at all.
    """
    k = len(class_names)
    if confusion.shape != (k, k):
        shape = tuple(confusion.shape)
        raise ValueError(f"confusion matrix has shape {shape} for {k} class names; expected ({k}, {k})")
    counts = confusion.to("cpu", torch.long)
    support = counts.sum(dim=1).tolist()
    correct = counts.diagonal().tolist()
    total = sum(support)
    if not total:
        raise ValueError("the confusion matrix is empty; update the metrics with the test set first")
    chance, majority = 1 / k, max(support) / total
    found = {
        "accuracy": proportion(sum(correct), total, confidence, chance=chance, majority=majority),
        "accuracy_macro": balanced_accuracy(correct, support, class_names, confidence),
    }
    for name, right, n in zip(class_names, correct, support, strict=True):
        found[f"recall/{name}"] = proportion(right, n, confidence)
    found["chance"] = Estimate(chance, None, None, total, "none", {"classes": k})
    largest = class_names[support.index(max(support))]
    found["majority"] = Estimate(majority, None, None, total, "none", {"source": largest})
    return found


def balanced_accuracy(
    correct: Sequence[float],
    support: Sequence[int],
    class_names: Sequence[str],
    confidence: float = 0.95,
    **details: Any,
) -> Estimate:
    """Mean recall over the sources that have images, MOVER interval of Wilson's (see `estimates_from_confusion`).

    Args:
        correct: images of each source that were named rightly; fractions where a tie counts in part.
        support: images of each source.
        class_names: the sources; those without images are named in the details.
        confidence: nominal coverage of the interval.
        **details: what else belongs beside the number.

    Raises:
        ValueError: no source has images.
    """
    recalls, below, above = [], [], []
    for right, n in zip(correct, support, strict=True):
        if n:
            low, high = wilson(right, n, confidence)
            recalls.append(right / n)
            below.append((right / n - low) ** 2)
            above.append((high - right / n) ** 2)
    k = len(recalls)
    if not k:
        raise ValueError("found no image of any source; a mean recall needs at least one")
    mean = math.fsum(recalls) / k
    low, high = mean - math.sqrt(math.fsum(below)) / k, mean + math.sqrt(math.fsum(above)) / k
    if absent := [name for name, n in zip(class_names, support, strict=True) if not n]:
        details["absent"] = absent
    return Estimate(mean, low, high, sum(support), f"wilson (mover) {percent(confidence)}", details)


def even_selection(labels: NDArray[np.int64], most: int) -> list[int]:
    """Positions of at most `most` images of each label, evenly over its images, sorted."""
    chosen: list[int] = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        kept = np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)
        chosen += places[kept].tolist()
    return sorted(chosen)
