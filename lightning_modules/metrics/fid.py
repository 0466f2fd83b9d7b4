"""Frechet distance between images of two sources, over torchmetrics' FrechetInceptionDistance.

Heusel et al., NeurIPS 2017, with the features of one named extractor: `metric.name` is `fid_<extractor>`, and what is
logged under it was measured in those features. Kept from torchmetrics are the interface and its sums (float64, added up
over processes). Its own are: images become 8 bit by rounding, as in a file; the extractor is frozen and part of no
state dict; the distance is the one of `frechet.py`, in float64; too few and repeated samples are refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_modules.common.images import checked_uint8
from lightning_modules.metrics.extractors import FeatureExtractor, build_extractor
from lightning_modules.metrics.fdr import refuse_repeated
from lightning_modules.metrics.frechet import GaussianFactor, as_float64, frechet_distance
from lightning_modules.metrics.intervals import Estimate, student_half_width

SIDES = ("real", "fake")


class FrechetImageDistance(FrechetInceptionDistance):
    """Frechet distance between real and generated images in the features of a named extractor.

    Args:
        extractor: word of `build_extractor` (`fashion_cnn`, `inception:PATH`, `timm:NAME`), or an extractor.
        min_samples: fewest images of each side that a distance is computed from; by default 2, with a warning where
            there are not more than dimensions, for the covariance is then singular and the distance biased far upwards.
        reset_real_features: whether `reset` forgets the reals as well.

    Raises:
        ValueError: an unknown extractor, or `min_samples` below 2.
        FileNotFoundError: weights that are not there.
    """

    extractor: FeatureExtractor
    real_index: list[Tensor] | Tensor
    fake_index: list[Tensor] | Tensor

    def __init__(
        self,
        extractor: str | FeatureExtractor = "inception",
        *,
        min_samples: int | None = None,
        reset_real_features: bool = True,
        **kwargs: Any,
    ) -> None:
        if min_samples is not None and min_samples < 2:
            raise ValueError(f"min_samples is {min_samples}; a covariance needs at least 2")
        built = build_extractor(extractor) if isinstance(extractor, str) else extractor
        super().__init__(feature=built, reset_real_features=reset_real_features, normalize=False, **kwargs)
        # An attribute instead of a submodule: in no state dict, to no optimiser, left alone by train() and half().
        del self._modules["inception"]
        self.__dict__ |= {"inception": built, "extractor": built}
        self.min_samples = min_samples
        self._counted: dict[str, int] = {}  # images of each side, filled by compute
        for side in SIDES:
            self.add_state(f"{side}_index", default=[], dist_reduce_fx="cat")

    @property
    def name(self) -> str:
        """`fid_<extractor>`: numbers of different extractors do not compare."""
        return f"fid_{self.extractor.name}"

    def update(self, imgs: Tensor, real: bool, index: Tensor | None = None) -> None:
        """Add reals or others `(B, 3, H, W)`, uint8, or float in [0, 1], which are clamped and rounded to 8 bit.

        With an integer `index` `(B,)`, each image's unique position in its set, repeated images are an error in
        `compute` (a sampler that pads the last batch of a process repeats some).

        Raises:
            ValueError: other images, NaN or infinity in them or in their features, or an index that does not fit.
        """
        if index is not None and (index.shape != imgs.shape[:1] or index.is_floating_point()):
            raise ValueError(f"index {index.dtype} {tuple(index.shape)} for {len(imgs)} images; expected integer (B,)")
        self.update_features(self.extractor(checked_uint8(imgs)), real, index)

    def update_features(self, features: Tensor, real: bool, index: Tensor | None = None) -> None:
        """Add images by their features `(B, d)`, which the extractor has given before.

        Raises:
            ValueError: NaN or infinity.
        """
        if not features.isfinite().all():
            raise ValueError(f"features of {self.extractor.name} hold NaN or infinity; look at the network's weights")
        self._computed, self._update_count = None, max(1, self._update_count)  # as after `update`
        rows = as_float64(features)
        side = "real" if real else "fake"
        for state, value in (
            ("features_sum", rows.sum(dim=0)),
            ("features_cov_sum", rows.T @ rows),
            ("features_num_samples", len(rows)),
        ):
            setattr(self, f"{side}_{state}", getattr(self, f"{side}_{state}") + value)
        if index is not None:
            cast(list[Tensor], getattr(self, f"{side}_index")).append(index.long().to(rows.device))

    def compute(self) -> Tensor:
        """The distance over what all processes saw: scalar float64, >= 0.

        Raises:
            ValueError: too few images of a side, images counted more than once, or an index for a part of them.
        """
        return frechet_distance(*self._moments("real"), *self._moments("fake"))

    def estimate(self) -> Estimate:
        """The distance with its numbers of images and dimensions; all processes must call it together.

        There is no interval: the distance is biased upwards by an amount that depends on n, which resampling doubles.
        """
        value, counts = float(self.compute()), self._counted
        details = {"n_real": counts["real"], "n_fake": counts["fake"], "d": self.extractor.num_features}
        return Estimate(value, None, None, min(counts.values()), "none", details)

    def reset(self) -> None:
        """Forget what was seen, except the reals if they are to be kept."""
        kept = list(self.real_index)
        super().reset()
        if not self.reset_real_features:
            self.real_index = kept

    def _moments(self, side: str) -> tuple[Tensor, Tensor]:
        n = int(getattr(self, f"{side}_features_num_samples"))
        self._counted[side] = n
        self._check(side, n)
        mean = getattr(self, f"{side}_features_sum") / n
        scatter = getattr(self, f"{side}_features_cov_sum") - n * torch.outer(mean, mean)
        return mean, scatter / (n - 1)

    def _check(self, side: str, n: int) -> None:
        wanted, d = self.min_samples or 2, self.extractor.num_features
        if n < wanted:
            raise ValueError(f"{self.name}: found {n} {side} images, expected at least {wanted}; give more to update")
        if self.min_samples is None and (warning := few_images(self.name, n, d, side)) is not None:
            warnings.warn(warning, stacklevel=3)
        rows = getattr(self, f"{side}_index")
        index = dim_zero_cat(rows) if len(rows) else torch.empty(0)
        if not len(index):
            return
        if len(index) != n:
            raise ValueError(f"{self.name}: {len(index)} of {n} {side} images came with an index; give all or none")
        refuse_repeated(index.sort().values, f"{side} image", where=f"{self.name}: ")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> FrechetImageDistance:
        super()._apply(fn, exclude_state)
        self.extractor.to(self.device)
        return self

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        """Gather from all processes; torchmetrics' own empty state of a process without images is not integer."""
        for side in SIDES:
            if not len(getattr(self, f"{side}_index")):
                setattr(self, f"{side}_index", [torch.empty(0, dtype=torch.long, device=self.device)])
        super()._sync_dist(dist_sync_fn, process_group)


GROUPS = 20
"""Of images, each left out once by `distance_difference`."""


def distance_difference(reference: Tensor, compared: Tensor, base: Tensor) -> Estimate:
    """How much farther from a reference one set of images is than another: two Frechet distances and an interval.

    All three have the same number of images, so that the bias of one distance, which depends on it, takes away that of
    the other. The interval is the delete-group jackknife's (Efron and Tibshirani 1993, ch. 11) over 20 groups, which
    leave all three sets at once. It is wide: of Gaussian features of 32 dimensions, n = 500, 99 % hold the truth.

    Args:
        reference: features `(n, d)`, rows independent of each other.
        compared: those of the set whose distance is asked for, likewise.
        base: those of the set that it is compared with, likewise.

    Raises:
        ValueError: sets of different sizes.
    """
    n = len(reference)
    if not n == len(compared) == len(base):
        raise ValueError(f"found {n}, {len(compared)} and {len(base)} images, expected as many of each")

    def difference(kept: Tensor) -> float:
        own = GaussianFactor.from_features(reference[kept])
        farther, nearer = (own.distance(GaussianFactor.from_features(rows[kept])) for rows in (compared, base))
        return float(farther - nearer)

    value = difference(torch.ones(n, dtype=torch.bool))
    if n < 2 * GROUPS:
        return Estimate(value, None, None, n, "none")
    group = torch.arange(n) % GROUPS
    left = torch.tensor([difference(group != each) for each in range(GROUPS)], dtype=torch.float64)
    error = float(((left - left.mean()).square().sum() * (GROUPS - 1) / GROUPS).sqrt())
    half = student_half_width(error, GROUPS - 1)
    return Estimate(value, value - half, value + half, n, "delete-group jackknife 95%")


def few_images(name: str, n: int, d: int, side: str = "") -> str | None:
    """What to say of a Frechet distance that n images of a side ("" for each) give in d dimensions; None where n > d.

    `name` is `fid_<extractor>`.
    """
    if n > d:
        return None
    images = f"{side} images" if side else "images of each source"
    return (
        f"{name}: {n} {images} for {d} dimensions; their covariance is singular and the distance "
        f"biased upwards. Use more than {d} images, and compare only distances of equal n."
    )
