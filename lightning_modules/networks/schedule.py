"""Learning-rate schedule of the attributors."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, steps: int, warmup_fraction: float = 0.05) -> LambdaLR:
    """Linear warm-up over ``warmup_fraction`` of ``steps``, then half a cosine to zero (Loshchilov and Hutter 2017).

    Args:
        optimizer: Its learning rates are the peaks.
        steps: Optimizer steps of the whole training, at least 1.
        warmup_fraction: In [0, 1).
    """
    warmup = max(1, round(steps * warmup_fraction))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
