"""How far the probabilities that a key decoder gives its bits can be believed: sums exact in whatever order."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from lightning_modules.metrics.attribution import CrossEntropy
from lightning_modules.metrics.frechet import as_float64, float64_scalar
from lightning_modules.metrics.intervals import Estimate, percent, student_interval

_UNIT = 2.0**-30  # fixed point, as in cross_entropy: adding integers gives the same digits in any order


def check_keys(logits: Tensor, keys: Tensor, bits: int) -> None:
    """Check that logits and keys are `(B, bits)` both.

    Raises:
        ValueError: they are not, or the keys are not bool.
    """
    if logits.shape != keys.shape or logits.ndim != 2 or logits.shape[1] != bits or keys.dtype != torch.bool:
        raise ValueError(
            f"found logits {tuple(logits.shape)} and keys {tuple(keys.shape)} of {keys.dtype}, expected (B, {bits}) "
            "both, and keys of torch.bool"
        )


class KeyCrossEntropy(CrossEntropy):
    """Mean of -log2 p(true bit) over bits and images: 1 for coins, 0 for certainty that is right every time.

    The interval is Student's over images, whose bits depend on each other. Otherwise as `CrossEntropy`: a bit whose
    logit is NaN makes the mean NaN, and an image's mean above 1000 counts as 1000.
    """

    unit = "bit"

    def __init__(self, bits: int, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(confidence, **kwargs)
        self.bits = bits

    def update(self, logits: Tensor, keys: Tensor) -> None:
        """Add images: `logits` `(B, m)`, log odds of a 1 against a 0, and the true `keys`, bool `(B, m)`.

        Raises:
            ValueError: shapes other than these.
        """
        check_keys(logits, keys, self.bits)
        odds = as_float64(logits.detach())
        wrong_way = torch.where(keys.to(odds.device), -odds, odds)
        self._add(F.softplus(wrong_way).mean(dim=1) / math.log(2))


class KeyCalibrationError(Metric):
    """Expected calibration error of decoded bits (Guo et al., "On calibration of modern neural networks", ICML 2017).

    A bit's confidence is `sigmoid(|logit|)`, in [0.5, 1]. Bits are put into bins of equal width by confidence; the
    error is the sum over bins of |sum of confidences - number of right bits|, over all bits. It is biased upwards by
    chance: a perfectly calibrated decoder scores above 0, the less the more images there are.

    With the sign of each bin's difference held fixed the error is a mean over images, and its interval Student's of
    that mean (the delta method; bits of one image depend on each other), cut at 0. `overconfidence` in the details is
    mean confidence less the share of right bits, `reliability` has mean confidence, share of right bits and number of
    bits of each bin that holds any.
    """

    higher_is_better = False
    full_state_update = False

    excess: Tensor
    held: Tensor
    right: Tensor
    products: Tensor
    count: Tensor
    undefined: Tensor

    def __init__(self, bits: int, bins: int = 10, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits, self.bins, self.confidence = bits, bins, confidence
        self._whole: tuple[Tensor, Tensor, Tensor, int, bool] | None = None
        for name, shape in (
            ("excess", (bins,)),
            ("held", (bins,)),
            ("right", (bins,)),
            ("products", (bins, bins)),
            ("count", ()),
            ("undefined", ()),
        ):
            self.add_state(name, default=torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, keys: Tensor) -> None:
        """Add images: `logits` `(B, m)`, log odds of a 1 against a 0, and the true `keys`, bool `(B, m)`.

        Raises:
            ValueError: shapes other than these.
        """
        check_keys(logits, keys, self.bits)
        odds = as_float64(logits.detach())
        self.undefined += odds.isnan().sum().to(self.undefined.device)
        odds = odds.nan_to_num()
        sure = torch.sigmoid(odds.abs())
        right = (odds > 0) == keys.to(odds.device)
        excess = ((sure - right.double()) / _UNIT).round().long()
        bin_of = ((sure - 0.5) * 2 * self.bins).long().clamp(max=self.bins - 1)
        # (B, bins): an image's excess of confidence by bin, in units; exact integers
        by_bin = torch.stack([torch.where(bin_of == b, excess, 0).sum(dim=1) for b in range(self.bins)], dim=1)
        in_bin = torch.nn.functional.one_hot(bin_of, self.bins)  # (B, m, bins)
        self.held += in_bin.sum(dim=(0, 1)).to(self.held.device)
        self.right += (in_bin * right[..., None]).sum(dim=(0, 1)).to(self.right.device)
        means = by_bin.double() / self.bits
        products = (means[:, :, None] * means[:, None, :] * _UNIT).round().long()
        self.excess += by_bin.sum(dim=0).to(self.excess.device)
        self.products += products.sum(dim=0).to(self.products.device)
        self.count += len(logits)

    def compute(self) -> Tensor:
        """The error: scalar float64; NaN without images or with a logit that is NaN."""
        counted = torch.stack([self.held, self.right]).cpu()
        self._whole = (self.excess.cpu(), counted, self.products.cpu(), int(self.count), bool(self.undefined))
        return float64_scalar(self._estimate(*self._whole).value, self.device)

    def estimate(self) -> Estimate:
        """The error with its interval over images. All processes must call it together, as `compute`."""
        self.compute()
        assert self._whole is not None  # compute, or the earlier one whose result it kept, has filled it
        return self._estimate(*self._whole)

    def _estimate(self, excess: Tensor, counted: Tensor, products: Tensor, n: int, undefined: bool) -> Estimate:
        if not n or undefined:
            return Estimate(math.nan, None, None, n, "none", {"bins": self.bins})
        means = excess.double() * _UNIT / (n * self.bits)  # per bin, over images
        error = float(means.abs().sum())
        details: dict[str, Any] = {"bins": self.bins, "overconfidence": float(means.sum())}
        details["reliability"] = [
            [(over * _UNIT + hits) / count, hits / count, count]
            for over, count, hits in zip(excess.tolist(), *counted.tolist(), strict=True)
            if count
        ]
        if n < 2:
            return Estimate(error, None, None, n, "none", details)
        signs = means.sign()
        squares = float(signs @ (products.double() * _UNIT) @ signs)
        half, _ = student_interval(error, squares, n, self.confidence)
        name = f"student t {percent(self.confidence)}"
        return Estimate(error, max(0.0, error - half), error + half, n, name, details)
