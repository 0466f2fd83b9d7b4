"""Tensors that follow from their names alone, so that no weights need to be stored to compare two implementations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def seeded_tensor(name: str, shape: Sequence[int]) -> Tensor:
    """Normal numbers from the name: about 1 for the scale of a norm, small for a bias, 1 / sqrt(fan-in) for weights."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    numbers = torch.from_numpy(np.random.Generator(np.random.Philox(seed)).standard_normal(tuple(shape), np.float32))
    if name.startswith("input") or "embedding" in name:
        return numbers
    if len(shape) == 1:
        return 1.0 + 0.1 * numbers if name.endswith("weight") else 0.1 * numbers
    return numbers / math.sqrt(math.prod(shape[1:]))
