"""Mean cross entropy as a metric: exact whatever the order of samples, with a standard error."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from lightning_modules.metrics.frechet import as_float64
from lightning_modules.metrics.intervals import Estimate, percent, student_half_width

# Sums are integers: adding floats in another order (batches, processes) changes the last digits, adding integers does
# not. At these units a loss is rounded to 2e-10, and 1e6 samples of the largest loss kept still fit into 63 bits.
_LOSS_UNIT = 2.0**-32
_SQUARE_UNIT = 2.0**-20
_LARGEST = 1000.0


class CrossEntropy(Metric):
    """Mean of -ln p(label) over samples, natural logarithm, from unnormalised logits.

    Sums are kept in fixed point (see above), so 1 process and 8 give the same digits. A sample whose logits are NaN
    makes the mean NaN; a loss above 1000 (a probability below 1e-434) counts as 1000.

    Args:
        confidence: nominal coverage of the interval of `estimate`.
        **kwargs: arguments of `torchmetrics.Metric`.
    """

    is_differentiable = False
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
        return torch.tensor(mean, dtype=torch.float64, device="cpu" if self.device.type == "mps" else self.device)

    def estimate(self) -> Estimate:
        """The mean with its Student t interval over samples. All processes must call it together, as `compute`."""
        mean = float(self.compute())
        n, squares = self._moments
        if n < 2 or math.isnan(mean):
            return Estimate(mean, None, None, n, "none", {"unit": self.unit})
        variance = max(0.0, squares - n * mean * mean) / (n - 1)
        half = student_half_width(math.sqrt(variance / n), n - 1, self.confidence)
        return Estimate(
            mean, max(0.0, mean - half), mean + half, n, f"student t {percent(self.confidence)}", {"unit": self.unit}
        )
