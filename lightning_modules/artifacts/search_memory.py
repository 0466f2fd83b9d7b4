"""How much a search may hold at a time, and the arithmetic it needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lightning_modules.artifacts.projection import GROUP
from lightning_modules.artifacts.references import References

DEFAULT_MEMORY_LIMIT = 512 * 2**20
"""Bytes a search allocates at most, unless told otherwise."""

_QUERIES, _REFERENCES = 2048, 8192  # larger blocks are not faster


@dataclass(frozen=True)
class SearchMemory:
    """Sizes of a search's blocks.

    Attributes:
        queries: Queries prepared at a time.
        references: References per tile of the bounds, a multiple of GROUP.
        full_references: References per tile of the plain product, a multiple of GROUP.
        pairs: Pairs waiting for the finer bound.
        buffer: Bytes for gathering points.
    """

    queries: int
    references: int
    full_references: int
    pairs: int
    buffer: int

    @classmethod
    def plan(cls, references: References, limit: int, queries: int) -> SearchMemory:
        """Divide the memory: a quarter each for queries, bounds, waiting pairs and gathered points.

        Args:
            references: The real points.
            limit: Bytes in all, beside the queries that came in and the result.
            queries: How many queries there are.

        Raises:
            ValueError: The limit does not allow a single query at a time.
        """
        columns, dimensions = references.columns.count, references.columns.dimensions
        described = 0 if references.projection is None else references.projection.axes.shape[1]
        # Copies of a query: as given and in the references' units (D, at most float64), sums, centres, products (C).
        query_bytes = 24 * dimensions + 40 * columns + 48 * described + 512
        tile_row = 4 * min(columns, 4096) + 16
        quarter = limit // 4
        needed = 4 * max(query_bytes, 40 * columns, GROUP * (tile_row + 16), 4096)
        if quarter * 4 < needed:
            raise ValueError(
                f"A search of points with {dimensions} dimensions needs a memory limit of at least {needed} bytes, "
                f"found {limit}; raise memory_limit (the default is {DEFAULT_MEMORY_LIMIT})."
            )
        block = max(1, min(_QUERIES, quarter // query_bytes, max(queries, 1)))
        # A bound and the second buffer of a product in several pieces, or the comparison's mask: 9 bytes.
        tile = min(_REFERENCES, quarter // (9 * block))
        full = min(_REFERENCES // 4, quarter // (9 * block + tile_row))
        while min(tile, full) < GROUP:
            block = max(1, block // 2)
            tile, full = (
                min(_REFERENCES, quarter // (9 * block)),
                min(_REFERENCES // 4, quarter // (9 * block + tile_row)),
            )
        # A waiting pair holds 20 bytes, and as much again several times over while it is sorted and compared.
        return cls(block, tile // GROUP * GROUP, full // GROUP * GROUP, max(GROUP, quarter // 160), quarter)


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
