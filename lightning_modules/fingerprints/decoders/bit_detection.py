"""Deciding the bits of a key together, from its estimate as real numbers and their precision."""

from __future__ import annotations

import torch
from torch import Tensor


def decide(key: Tensor, precision: Tensor, odds: Tensor | None = None, rounds: int = 64) -> Tensor:
    """Log odds of the bits under a Gaussian likelihood, each against the best key that has the other bit.

    Args:
        key: estimate of the key as real numbers, float `(n, m)`.
        precision: inverse covariance of all coordinates, `(n, k + m, k + m)`, the key's last. A prior of the same
            width and centre 1/2 on each bit may be in it: it says the same of every key of bits.
        odds: log odds of the bits known beforehand, `(n, m)`; None for even.
        rounds: most changes to a key.

    Returns:
        float32 `(n, m)`, positive for 1; upper bounds in size, since only changes of at most two bits are tried.
    """
    m = key.shape[1]
    odds = torch.zeros_like(key) if odds is None else odds
    inner, across, outer = precision[:, :-m, :-m], precision[:, :-m, -m:], precision[:, -m:, -m:]
    marginal = outer - across.mT @ torch.linalg.solve(inner, across)  # of the key, whatever alpha is
    bits = (key > 0.5).to(key.dtype)
    for _ in range(rounds):
        single, double = _changes(bits, key, marginal, odds)
        best, where = torch.cat([single, double.flatten(1)], dim=1).min(dim=1)
        better = best < -1e-6
        if not bool(better.any()):
            break
        pair = (where - m).clamp_min(0)
        first = torch.where(where < m, where, pair // m)
        second = torch.where(where < m, where, pair % m)
        flips = torch.zeros_like(bits).scatter_(1, first[:, None], 1.0).scatter_(1, second[:, None], 1.0)
        bits = torch.where(better[:, None], (bits - flips).abs(), bits)
    single, double = _changes(bits, key, marginal, odds)
    odds = torch.minimum(single, double.min(dim=2).values).clamp_min(1e-6)  # of the best key with the other bit
    return ((2.0 * bits - 1.0) * odds).float()


def _changes(bits: Tensor, key: Tensor, marginal: Tensor, odds: Tensor) -> tuple[Tensor, Tensor]:
    """What changing one bit `(n, m)` and two bits `(n, m, m)` adds to half the squared distance less the odds."""
    change = 1.0 - 2.0 * bits
    slope = (marginal @ (bits - key)[:, :, None])[:, :, 0] - odds
    single = change * slope + 0.5 * marginal.diagonal(dim1=1, dim2=2)
    double = single[:, :, None] + single[:, None, :] + change[:, :, None] * change[:, None, :] * marginal
    return single, double + torch.diag_embed(torch.full_like(single, float("inf")))
