"""First samples of a bundled source, as sample sheets show them (`evaluate.py sheets`)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.generators.bundled import load_bundled
from lightning_modules.generators.sampling import BLOCK, synthesize_block


def first_samples(source: str, n: int, seed: int) -> Tensor:
    """Return samples 0 .. n-1 of a bundled source as uint8 `(n, 3, H, W)`."""
    generator = load_bundled(source)
    return torch.cat([synthesize_block(generator, seed, start) for start in range(0, n, BLOCK)])[:n]
