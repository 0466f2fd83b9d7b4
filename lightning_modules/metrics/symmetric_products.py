"""Products whose result is symmetric, at half the work: only blocks on and below the diagonal are multiplied.

A BLAS has these as syrk and sygst; PyTorch offers neither, so they are put together from its general products. Blocks
are wide enough that each product runs at full speed.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 192


def gram(rows: Tensor) -> Tensor:
    """`rows.T @ rows`.

    Args:
        rows: `(n, d)`.

    Returns:
        `(d, d)`.
    """
    d = rows.shape[1]
    result = rows.new_empty(d, d)
    for start in range(0, d, BLOCK):
        stop = min(start + BLOCK, d)
        below = rows[:, start:].T @ rows[:, start:stop]
        result[start:, start:stop] = below
        result[start:stop, stop:] = below[stop - start :].T
    return result


def lower_congruence(lower: Tensor, symmetric: Tensor) -> Tensor:
    """`lower.T @ symmetric @ lower` on and below the diagonal; what lies above is not meant to be read.

    With both zeros and symmetry left out it takes d^3 multiply-adds / 2, where two general products take 2 d^3.

    Args:
        lower: `(d, d)`, zero above the diagonal.
        symmetric: `(d, d)`, symmetric.

    Returns:
        `(d, d)`, as `torch.linalg.eigvalsh` takes it.
    """
    d = len(symmetric)
    result = torch.zeros_like(symmetric)
    for left in range(0, d, BLOCK):
        columns = slice(left, left + BLOCK)
        half = symmetric[left:, left:] @ lower[left:, columns]  # rows `left` and below of `symmetric @ lower`
        for top in range(left, d, BLOCK):
            rows = slice(top, top + BLOCK)
            result[rows, columns] = lower[top:, rows].T @ half[top - left :]
    return result
