"""Standard normal latents keyed by (seed, index), so that no batch, rank or order can change them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def standard_normal_latents(n: int, dim: int, seed: int, start: int = 0) -> Tensor:
    """Draw latents whose row i depends on `(seed, start + i)` alone.

    Each row has its own counter-based stream (Philox, Salmon et al. 2011) whose 128-bit key is the pair (seed, index):
    two different pairs can never share a stream, which a hash into torch's 32-bit seeds could not promise.

    Args:
        n: number of rows, at least 0.
        dim: length of a latent.
        seed: experiment seed, 0 <= seed < 2**64.
        start: index of the first row, at least 0.

    Returns:
        float32 tensor `(n, dim)`, independent N(0, 1) entries, on the CPU.

    Raises:
        ValueError: a negative count, seed or start.
    """
    if n < 0 or start < 0 or not 0 <= seed < 2**64:
        raise ValueError(f"expected n >= 0, start >= 0 and 0 <= seed < 2**64, found n={n}, start={start}, seed={seed}")
    rows = np.empty((n, dim), dtype=np.float32)
    for row, index in zip(rows, range(start, start + n), strict=True):
        stream = np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))
        stream.standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(rows)
