"""Exact squared distances of single pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_modules.artifacts.search.index import QueryBlock, References

_CHUNK = 64
"""Products that sum exactly in float32: 64 x (4 x 255) x 255 < 2^24 (see shared_coordinates.MAX_GROUP)."""
_NUMBERS = 2**18  # per buffer: they stay in the cache


class ExactDistance:
    """Squared distances of (query, reference) pairs, in the references' units, float64.

    Between 8-bit points the squared distance is an integer and is computed as one, so that equal distances are equal
    numbers. Otherwise it is the float64 sum of squared differences, added up in a fixed tree, so that it does not
    depend on which other pairs are computed with it, on threads or on the device.
    Its buffers take at most ``memory`` bytes.
    """

    def __init__(self, references: References, block: QueryBlock, memory: int) -> None:
        self._references, self._block = references, block
        self._count = references.columns.count
        width = -(-self._count // _CHUNK) * _CHUNK
        self._padded = pad(block.sums, (0, width - self._count)) if width > self._count else block.sums
        per_pair = 9 * width if block.on_grid else 33 * width
        self._rows = max(1, min(_NUMBERS // width, memory // per_pair))
        self._device = block.sums.device
        self._multiplicity = references.columns.multiplicity.to(self._device, torch.float64)
        self._buffers: tuple[Tensor, Tensor] | None = None

    def __call__(self, query: Tensor, reference: Tensor) -> Tensor:
        """Squared distances ``(p,)`` float64 of rows of the block and references, ``(p,)`` int64 each."""
        result = torch.empty(len(query), dtype=torch.float64, device=self._device)
        one = self._integer if self._block.on_grid else self._floating
        for start in range(0, len(query), self._rows):
            part = slice(start, start + self._rows)
            result[part] = one(query[part], reference[part])
        return result

    def _gather(self, reference: Tensor) -> Tensor:
        points = self._references.points
        return points.index_select(0, reference.to(points.device)).to(self._device)

    def _integer(self, query: Tensor, reference: Tensor) -> Tensor:
        if self._buffers is None:
            shape = (self._rows, self._padded.shape[1])
            self._buffers = (torch.zeros(shape, device=self._device), torch.empty(shape, device=self._device))
        left, right = (buffer[: len(query)] for buffer in self._buffers)
        left[:, : self._count].copy_(self._gather(reference))
        torch.index_select(self._padded, 0, query, out=right)
        # Every chunk's sum is an integer below 2^24, hence exact in float32 in any order.
        products = torch.mul(left, right, out=right)
        inner = products.view(len(query), -1, _CHUNK).sum(2).sum(1, dtype=torch.float64)
        squares = self._references.squares
        norms = squares[:, 0].index_select(0, reference.to(squares.device)).to(self._device)
        return self._block.own.index_select(0, query) + norms - 2 * inner

    def _floating(self, query: Tensor, reference: Tensor) -> Tensor:
        assert self._block.centres is not None
        difference = self._gather(reference).double()
        difference.sub_(self._block.centres.index_select(0, query)).square_().mul_(self._multiplicity)
        return self._block.remainder.index_select(0, query) + tree_sum(difference)


def tree_sum(terms: Tensor) -> Tensor:
    """Sums of rows ``(n, d)``, which are overwritten: halves are added until one number is left.

    Elementwise additions only, so that a row's sum is the same bits in any batch, thread count or device.
    """
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        terms[:, : width - half] += terms[:, half:width]
        width = half
    return terms[:, 0] if terms.shape[1] else terms.new_zeros(len(terms))
