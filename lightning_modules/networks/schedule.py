"""Learning-rate schedule of the attributors and key decoders."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

_MOMENTA = (0.85, 0.95)  # at the peak of the rate, and where it is zero


class _CyclingMomentum(LambdaLR):
    """Adam's first beta falls as the rate rises, and rises as it falls (one-cycle policy, Smith 2018)."""

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        low, high = _MOMENTA
        for group, peak, rate in zip(self.optimizer.param_groups, self.base_lrs, self.get_last_lr(), strict=True):
            share = rate / peak if peak else 0.0
            group["betas"] = (high - (high - low) * share, group["betas"][1])


def warmup_cosine(
    optimizer: Optimizer, steps: int, warmup_fraction: float = 0.05, cycle_momentum: bool = False
) -> LambdaLR:
    """Linear warm-up over ``warmup_fraction`` of ``steps``, then half a cosine to zero (Loshchilov and Hutter 2017).

    Args:
        optimizer: Its learning rates are the peaks.
        steps: Optimizer steps of the whole training, at least 1.
        warmup_fraction: In [0, 1).
        cycle_momentum: Move the first beta of an Adam from 0.95 to 0.85 and back, against the rate.
    """
    warmup = max(1, round(steps * warmup_fraction))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * progress))

    return (_CyclingMomentum if cycle_momentum else LambdaLR)(optimizer, factor)
