"""Frechet distance ratio (FDR): how far apart sources lie, in units of how far apart two halves of one source lie.

Song, Khayatkhoei and AbdAlmageed, "ManiFPT", CVPR 2024, Sec. 4, names the score (inter-class over intra-class Frechet
distance, higher = more separable) without printing a formula. The one used here:

- features are the penultimate layer on the test set, and each set of features is summed up by its mean and covariance;
- one n for every distance: half the smallest class (or `samples_per_half`), for the Frechet distance of samples is
  biased upwards by an amount that depends on n, and a ratio of distances from different n compares biases;
- `intra` = mean over classes of the distance between two random disjoint halves (n images each) of the class;
- `inter` = mean over unordered pairs of classes of the distance between the first halves of the two;
- FDR = mean of `inter / intra` over `seeds` random halvings.

FDR depends on n and d: both are reported beside it, and only equal ones compare. Where sources differ at all, it grows
with n without bound (`intra` is then mostly the bias, of order 1 / n), so a large FDR says nothing of how many single
images are told apart. What it has to be compared with is its *null*: the same features with their labels shuffled, one
halving per shuffle, near 1 at any n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_modules.metrics.frechet import GaussianFactor, as_float64, float64_scalar, pairwise_frechet
from lightning_modules.metrics.intervals import Estimate, mean_and_std, percent, student_half_width


class FrechetDistanceRatio(Metric):
    """Inter-class over intra-class Frechet distance of features (see the module's docstring for the definition).

    The value depends on the set of (features, label, index) alone: samples are ordered by `index` before anything is
    computed, and halves are drawn from (seed, halving, class), so neither batch size, order nor the number of
    processes changes a digit. A process that saw no sample is fine.

    Args:
        seeds: how many random halvings are averaged.
        seed: experiment seed the halvings are keyed by.
        samples_per_half: n of every distance; by default half the smallest class.
        shuffles: how often labels are shuffled for the null; 0 for no null; None for 20, down to 5 where the distances
            take long.
        class_names: names for error messages; by default the labels.

    Raises:
        ValueError: fewer than two classes, no halving, a single shuffle, or names that do not fit.
    """

    higher_is_better = True
    full_state_update = False

    features: list[Tensor] | Tensor
    labels: list[Tensor] | Tensor
    index: list[Tensor] | Tensor

    def __init__(
        self,
        num_classes: int,
        seeds: int = 5,
        *,
        seed: int = 0,
        samples_per_half: int | None = None,
        shuffles: int | None = None,
        class_names: Sequence[str] | None = None,
        confidence: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_classes < 2:
            raise ValueError(
                f"num_classes is {num_classes}; a ratio of inter- to intra-class distances needs at least 2 classes"
            )
        if seeds < 1:
            raise ValueError(f"seeds is {seeds}; expected at least 1 random halving")
        if samples_per_half is not None and samples_per_half < 2:
            raise ValueError(f"samples_per_half is {samples_per_half}; a covariance needs at least 2")
        if shuffles is not None and shuffles != 0 and shuffles < 2:
            raise ValueError(f"shuffles is {shuffles}; a range needs at least 2, no null 0")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"found {len(class_names)} class names for {num_classes} classes; expected one each")
        self.num_classes, self.seeds, self.seed = num_classes, seeds, seed
        self.samples_per_half, self.shuffles = samples_per_half, shuffles
        self.class_names = list(class_names or map(str, range(num_classes)))
        self.confidence = confidence
        self._replicates: list[tuple[float, float]] = []  # (inter, intra) of each halving, filled by compute
        self._null: list[float] = []  # ratio of each shuffle, likewise
        self._shape = (0, 0, 0)  # n, d and number of images, filled by compute
        for name in ("features", "labels", "index"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor, index: Tensor) -> None:
        """Add a batch: features `(B, d)`, labels `(B,)` from 0 and `index` `(B,)`, unique positions in the split.

        Raises:
            ValueError: shapes do not fit each other.
        """
        if features.ndim != 2 or labels.shape != features.shape[:1] or index.shape != features.shape[:1]:
            raise ValueError(
                f"features {tuple(features.shape)}, labels {tuple(labels.shape)}, index {tuple(index.shape)}; "
                "expected (B, d), (B,) and (B,)"
            )
        stored = features.detach() if features.dtype == torch.float64 else features.detach().float()
        for state, batch in ((self.features, stored), (self.labels, labels.long()), (self.index, index.long())):
            # a tensor only while synchronised, when torchmetrics lets nobody update
            cast(list[Tensor], state).append(batch)

    def compute(self) -> Tensor:
        """FDR over what all processes saw: scalar float64, infinite where the halves of every class coincide.

        Raises:
            ValueError: NaN or infinite features, a label out of range, a sample counted twice, or too few images of a
                class.
        """
        features, labels = self._sorted()
        by_class = [features[labels == label] for label in range(self.num_classes)]
        n = self._half_size([len(rows) for rows in by_class])
        self._replicates = []
        for halving in range(self.seeds):
            halves = []
            for label, rows in enumerate(by_class):
                order = np.random.default_rng([self.seed, halving, label]).permutation(len(rows))
                halves.append(rows[torch.from_numpy(order[: 2 * n]).to(rows.device)])
            self._replicates.append(_inter_and_intra(halves))
        self._null = []
        shuffles = self.shuffles
        for shuffle in range(_affordable(self.num_classes, n, features.shape[1]) if shuffles is None else shuffles):
            # the first 2n of each class after a shuffle of all labels; no label is num_classes, so no key is used twice
            order = np.random.default_rng([self.seed, shuffle, self.num_classes]).permutation(len(features))
            chosen = torch.from_numpy(order[: 2 * n * self.num_classes]).to(features.device)
            self._null.append(_ratio(*_inter_and_intra(features[chosen].chunk(self.num_classes))))
        self._shape = (n, features.shape[1], len(features))
        ratios = [_ratio(inter, intra) for inter, intra in self._replicates]
        return float64_scalar(mean_and_std(ratios)[0], self.device)

    def estimate(self) -> Estimate:
        """FDR with an interval; inter, intra, n, d, seeds in the details. All processes must call it together.

        The interval is the delete-half jackknife (Shao and Wu, "A general theory for jackknife variance estimation",
        Annals of Statistics 1989): for a statistic recomputed on the data left after deleting d of N samples at
        random, the variance is (N - d) / d times the mean squared deviation over the draws; deleting half, the factor
        is 1 and the standard error is the standard deviation over halvings. It is estimated from `seeds` draws, hence
        the Student t with seeds - 1 degrees of freedom.

        It is conservative: in simulated Gaussian and rectified features (d 8 and 64, 60 to 1000 images per class) the
        95% interval held the expected value in 98 to 100% of the trials, for a single halving's intra is noisier than
        the mean over halvings that is reported. It speaks of other test images for the same network at this n, not of
        the bias of Frechet distances at finite n, nor of training again.
        """
        value = float(self.compute())
        n, d, total = self._shape
        ratios = [_ratio(inter, intra) for inter, intra in self._replicates]
        details = {
            "inter": mean_and_std([inter for inter, _ in self._replicates])[0],
            "intra": mean_and_std([intra for _, intra in self._replicates])[0],
            "n_per_half": n,
            "d": d,
            "seeds": self.seeds,
            "ratio_per_seed": ratios,
        }
        _, std = mean_and_std(ratios)
        if std is None:
            return Estimate(value, None, None, total, "none", details)
        half = student_half_width(std, self.seeds - 1, self.confidence)
        interval = f"delete-half jackknife {percent(self.confidence)}"
        return Estimate(value, max(0.0, value - half), value + half, total, interval, details)

    def null_estimate(self) -> Estimate:
        """FDR of the same features with shuffled labels: mean and 95 % range over shuffles.

        The range is where the next shuffle's FDR falls with probability `confidence`: Student's, of the logarithms,
        for a ratio of few distances is skewed. A shuffle's FDR is that of one halving, which varies more than the mean
        over halvings: an FDR within the range may still be above chance, one above the range is. All processes must
        call it together, as `compute`.
        """
        self.compute()
        shuffles = len(self._null)
        if not shuffles:
            raise ValueError("found shuffles 0, expected some for a null")
        value, details = mean_and_std(self._null)[0], {"shuffles": shuffles, "ratio_per_shuffle": self._null}
        if not all(0 < ratio < math.inf for ratio in self._null):
            return Estimate(value, None, None, self._shape[2], "none", details)
        centre, std = mean_and_std([math.log(ratio) for ratio in self._null])
        half = student_half_width((std or 0.0) * math.sqrt(1 + 1 / shuffles), shuffles - 1, self.confidence)
        interval = f"range of shuffled labels {percent(self.confidence)}"
        return Estimate(value, math.exp(centre - half), math.exp(centre + half), self._shape[2], interval, details)

    def _sorted(self) -> tuple[Tensor, Tensor]:
        """All features (float64) and labels, ordered by sample index, after the checks that need all of them."""
        if isinstance(self.features, list) and not self.features:
            raise ValueError("found no features; call update with the test set before compute")
        features, labels, index = dim_zero_cat(self.features), dim_zero_cat(self.labels), dim_zero_cat(self.index)
        index, order = index.sort()
        refuse_repeated(index, "sample")
        if wrong := sorted(set(labels[(labels < 0) | (labels >= self.num_classes)].tolist())):
            raise ValueError(f"found labels {wrong}; expected 0 .. {self.num_classes - 1}")
        bad = ~features.isfinite().all(dim=1)
        if bad.any():
            names = [self.class_names[label] for label in sorted(set(labels[bad].tolist()))]
            raise ValueError(
                f"{int(bad.sum())} of {len(features)} feature vectors hold NaN or infinity "
                f"(classes: {', '.join(names)}); look at the network and its inputs, no Frechet distance "
                "is defined for them"
            )
        features = as_float64(features)
        order = order.to(features.device)
        return features[order], labels.to(features.device)[order]

    def _half_size(self, counts: list[int]) -> int:
        """N of every distance; an error that names every class with too few images."""
        need = 2 * (self.samples_per_half or 2)
        if few := [f"{name} has {n}" for name, n in zip(self.class_names, counts, strict=True) if n < need]:
            raise ValueError(
                f"too few images per class for FDR: {', '.join(few)}; expected at least {need} of each (two halves of "
                f"{need // 2}); use a larger test split or a smaller samples_per_half"
            )
        return self.samples_per_half or min(counts) // 2

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        """Gather from all processes; torchmetrics cannot where one saw no sample, as its empty state is no matrix."""
        rows = self.features if isinstance(self.features, list) else [self.features]
        mine = torch.tensor([rows[0].shape[1], rows[0].dtype == torch.float64] if rows else [0, 0], device=self.device)
        everyone = torch.stack(dist_sync_fn(mine, group=process_group or self.process_group))
        widths = sorted(set(everyone[:, 0].tolist()) - {0})
        if len(widths) > 1:
            raise ValueError(f"processes hold features of {widths} dimensions; expected one width")
        if not widths:
            return  # nobody saw a sample: compute says so
        dtype = torch.float64 if everyone[:, 1].any() else torch.float32
        if rows:
            self.features = [dim_zero_cat(self.features).to(dtype)]
        else:
            self.features = [torch.empty(0, widths[0], dtype=dtype, device=self.device)]
            self.labels = [torch.empty(0, dtype=torch.long, device=self.device)]
            self.index = [torch.empty(0, dtype=torch.long, device=self.device)]
        super()._sync_dist(dist_sync_fn, process_group)


def refuse_repeated(index: Tensor, what: str, where: str = "") -> None:
    """Raise a ValueError where a sorted index `(n,)` of samples, or of what they are called, names one twice."""
    if repeated := sorted(set(index[1:][index[1:] == index[:-1]].tolist())):
        raise ValueError(
            f"{where}{len(repeated)} {what}s were counted more than once (index {repeated[:5]} ...); use a sampler "
            f"that gives each {what.split()[-1]} to one process once, and reset the metric between epochs"
        )


def _inter_and_intra(halves: Sequence[Tensor]) -> tuple[float, float]:
    """Mean distance between first halves, and between first and second, of features `(2n, d)` of each class."""
    first, second = ([GaussianFactor.from_features(rows.chunk(2)[place]) for rows in halves] for place in (0, 1))
    upper = torch.triu_indices(len(halves), len(halves), offset=1)
    inter = pairwise_frechet(first)[upper[0], upper[1]].mean()
    intra = torch.stack([a.distance(b) for a, b in zip(first, second, strict=True)]).mean()
    return inter.item(), intra.item()


def _affordable(classes: int, n: int, d: int) -> int:
    """20 where a shuffle takes seconds, 5 at least: a range of few is wider, but many images make it narrow again."""
    work = classes * (classes + 1) // 2 * min(n, d) ** 2 * max(n, d)  # multiplications, roughly
    return max(5, min(20, 10**12 // work))


def _ratio(inter: float, intra: float) -> float:
    return inter / intra if intra > 0 else math.inf
