"""White Gaussian noise of an image from its seed alone, at the price of reading memory.

A normal number from a generator costs 8 ns, more than all else that the attack does. So they are drawn once, two
tables of 2^21, and shared, as the perturbations of evolution strategies are (Salimans et al. 2017, Sec. 2.1). A shift
of one table would repeat itself: here every run of 1,024 values of an image has a place of its own in either table, and
is the sum of what lies there, each of variance 1/2.

Two runs meet on part of one table with probability 0.002, and have then a correlation of 1/2 over what they share,
shifted against each other; they are the same with probability 2^-42. Tables take 16 MB of each process that adds noise,
and 40 ms once.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lightning_modules.common.random_streams import draw_words, stream_of

RUN = 1024
_BITS = 21  # of a place in a table
_PLACE = np.uint64(2**_BITS - 1)
_SHIFT = np.uint64(_BITS)
_PIECE = 32  # runs: what is worked on stays in the processor's cache


def noise_field(seeds: NDArray[np.int64], shape: tuple[int, ...], std: NDArray[np.float64]) -> NDArray[np.float32]:
    """Independent N(0, std^2) values of each image, which follow from its seed and `std` alone.

    Args:
        seeds: int64 `(n,)`, one per image.
        shape: of one image.
        std: standard deviations `(n,)`; the field of an image is the same at each, but for its size.

    Returns:
        float32 `(n, *shape)`.
    """
    count = math.prod(shape)
    each = -(-count // RUN)  # runs of an image
    words = draw_words(seeds, "noise field", each).reshape(-1)
    scale = np.repeat(std, each).astype(np.float32)[:, None]
    places = (words & _PLACE).astype(np.int64), ((words >> _SHIFT) & _PLACE).astype(np.int64)
    runs = np.empty((len(words), RUN), dtype=np.float32)
    first, second = _tables()
    for start in range(0, len(words), _PIECE):
        piece = slice(start, start + _PIECE)
        np.add(first[places[0][piece]], second[places[1][piece]], out=runs[piece])
        runs[piece] *= scale[piece]
    return runs.reshape(len(seeds), each * RUN)[:, :count].reshape(len(seeds), *shape)


@cache
def _tables() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """All runs of each table, `(2^21, RUN)` windows of it; it goes on at its end where it began."""
    normals = np.empty((2, 2**_BITS + RUN - 1), dtype=np.float32)
    for number, table in enumerate(normals):
        stream_of(2**63, number).standard_normal(dtype=np.float32, out=table[: 2**_BITS])
    normals[:, 2**_BITS :] = normals[:, : RUN - 1]
    normals *= np.float32(math.sqrt(0.5))
    first, second = np.lib.stride_tricks.sliding_window_view(normals, RUN, axis=1)
    return first, second
