"""How much a search may hold at a time, and the arithmetic it needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lightning_modules.artifacts.cells import CELL
from lightning_modules.artifacts.references import References
from lightning_modules.artifacts.sieve import GROUP

DEFAULT_MEMORY_LIMIT = 512 * 2**20
"""Bytes a search allocates at most, unless told otherwise."""

_QUERIES, _REFERENCES = 2048, 2048  # larger blocks are not faster


@dataclass(frozen=True)
class SearchMemory:
    """Sizes of a search's blocks.

    Attributes:
        queries: Queries prepared at a time.
        references: References per tile of the plain product, a multiple of GROUP.
        pairs: Pairs waiting for the finer bound.
        buffer: Bytes for gathering points.
    """

    queries: int
    references: int
    pairs: int
    buffer: int

    @classmethod
    def plan(cls, references: References, limit: int, queries: int, grid: bool) -> SearchMemory:
        """Divide the memory: half for queries, a quarter for bounds, an eighth each for pairs and gathered points.

        Args:
            references: The real points.
            limit: Bytes in all, beside the queries that came in and the result.
            queries: How many queries there are.
            grid: True if they are 8-bit points, which take less.

        Raises:
            ValueError: The limit does not allow a single query at a time.
        """
        columns, dimensions = references.columns.count, references.columns.dimensions
        projection = references.projection
        described = 0 if projection is None else projection.axes.shape[1]
        cells = 0 if projection is None else len(projection.cells)
        # Copies of a query: itself (D), its sums while they are joined, padded, and as factor of the product, centres
        # if it is not 8-bit (C), descriptions, and bounds of cells with what is computed on the way.
        per_query = 4 * dimensions + (20 if grid else 44) * columns + 48 * described + 32 * cells + 512
        once = 128 * dimensions  # a single query while it is prepared
        # A value, the second buffer of a product in several pieces or a mask; the tile itself in float32.
        per_pair, per_reference = 13, 4 * min(columns, 4096) + 4 * described + 32
        needed = max(
            2 * (per_query + once), 4 * GROUP * (per_reference + per_pair), 4 * CELL * per_pair, 8 * 160 * GROUP
        )
        if limit < needed:
            raise ValueError(
                f"A search of points with {dimensions} dimensions needs a memory limit of at least {needed} bytes, "
                f"found {limit}; raise memory_limit (the default is {DEFAULT_MEMORY_LIMIT})."
            )
        quarter = limit // 4
        block = min(_QUERIES, (2 * quarter - once) // per_query, quarter // (CELL * per_pair), max(queries, 1))
        block = min(block, (quarter // GROUP - per_reference) // per_pair)
        tile = min(_REFERENCES, quarter // (per_pair * block + per_reference))
        # A waiting pair holds 20 bytes, and as much again several times over while it is sorted and compared.
        return cls(block, tile // GROUP * GROUP, quarter // 2 // 160, quarter // 2)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products in true float32 inside, whatever the trainer allows outside: the bounds count on its rounding."""
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(allowed)
