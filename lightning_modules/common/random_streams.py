"""Random numbers that belong to an image: keyed by (experiment seed, sample index, attack), never by call order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def image_seeds(seed: int, index: Tensor | Sequence[int] | NDArray[np.int64]) -> Tensor:
    """The seeds that attacks take: one per image, from the experiment's seed and the image's index.

    For one experiment seed the map from index to seed is one to one (the finaliser of SplitMix64, Steele et al. 2014,
    is a bijection of 64 bits), so no two images of an experiment share a stream.

    Args:
        seed: experiment seed, 0 <= seed < 2**64.
        index: int64 `(n,)`, at least 0: position in the split, or a content id.

    Returns:
        int64 `(n,)` on the CPU; any of the 2**64 values, negative ones too.
    """
    positions = np.asarray(index.cpu() if isinstance(index, Tensor) else index, dtype=np.int64).reshape(-1)
    if not 0 <= seed < 2**64:
        raise ValueError(f"expected an experiment seed 0 <= seed < 2**64, found {seed}")
    if positions.size and positions.min() < 0:
        raise ValueError(f"expected sample indices of at least 0, found {positions.min()}")
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        start = _mix(np.array([seed], dtype=np.uint64) + GOLDEN)
        return torch.from_numpy(_mix(positions.astype(np.uint64) + start).view(np.int64))


def draw_uniforms(seeds: NDArray[np.int64], attack: str, count: int) -> NDArray[np.float64]:
    """Draw the uniform numbers that one attack needs for each image.

    Each image has its own counter-based stream (Philox, Salmon et al. 2011) with the key (image seed, hash of the
    attack's kind). An attack always draws the same count, so that a preset with random parameters and one with fixed
    ones meet the same image alike: strengths are compared on common random numbers.

    Args:
        seeds: int64 `(n,)`, one per image.
        attack: kind of the attack; two kinds never share a stream.
        count: uniform numbers per image.

    Returns:
        float64 `(n, count)` in [0, 1).
    """
    uniforms = np.empty((len(seeds), count), dtype=np.float64)
    second = _purpose_key(f"attack {attack}")
    for row, seed in zip(uniforms, seeds.view(np.uint64), strict=True):
        _streams.keyed(seed, second).random(out=row)
    return uniforms


def draw_words(seeds: NDArray[np.int64], purpose: str, count: int) -> NDArray[np.uint64]:
    """Draw many 64-bit words for each image at once: uint64 `(n, count)`, which follow from (image seed, purpose).

    They are a run of SplitMix64 (Steele et al. 2014), whose start is a hash of both: far cheaper than a Philox stream
    for each image, and good enough to choose places by.
    """
    start = _mix(seeds.view(np.uint64) ^ np.uint64(_purpose_key(purpose)))
    return _mix(start[:, None] + GOLDEN * np.arange(1, count + 1, dtype=np.uint64))


def stream_of(seed: int, index: int) -> np.random.Generator:
    """The random stream of one sample: a Philox generator keyed by (seed, index), both below 2**64."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, index], dtype=np.uint64)))


class _Streams(threading.local):
    """A stream in each thread that is given one key after the other: making a new one takes 20 times as long."""

    def __init__(self) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=np.zeros(2, dtype=np.uint64)))
        self._state: Any = self._generator.bit_generator.state
        self._key = self._state["state"]["key"]

    def keyed(self, first: int | np.uint64, second: int | np.uint64) -> np.random.Generator:
        """The stream of a key from its beginning, as `stream_of` gives it; good until the next call."""
        self._key[0], self._key[1] = first, second
        self._generator.bit_generator.state = self._state
        return self._generator


_streams = _Streams()


@cache
def _purpose_key(purpose: str) -> int:
    return int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "little")


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def standard_normal_latents(n: int, dim: int, seed: int, start: int = 0) -> Tensor:
    """Draw N(0, 1) latents, float32 `(n, dim)` on the CPU, whose row i depends on `(seed, start + i)` alone.

    Each row has its own counter-based stream (Philox, Salmon et al. 2011) whose 128-bit key is the pair (seed, index):
    two different pairs can never share a stream, which a hash into torch's 32-bit seeds could not promise.

    Raises:
        ValueError: a negative count or start, or a seed outside 0 <= seed < 2**64.
    """
    if n < 0 or start < 0 or not 0 <= seed < 2**64:
        raise ValueError(f"expected n >= 0, start >= 0 and 0 <= seed < 2**64, found n={n}, start={start}, seed={seed}")
    rows = np.empty((n, dim), dtype=np.float32)
    for row, index in zip(rows, range(start, start + n), strict=True):
        _streams.keyed(seed, index).standard_normal(dtype=np.float32, out=row)
    return torch.from_numpy(rows)


def seeded_keys(n: int, bits: int, seed: int, start: int = 0) -> Tensor:
    """Keys for an evaluation, not for users: bool `(n, bits)`, row i depends on `(seed, start + i)` alone."""
    rows = np.empty((n, bits), dtype=bool)
    for row, index in zip(rows, range(start, start + n), strict=True):
        row[:] = _streams.keyed(seed, 2**62 + index).integers(0, 2, size=bits, dtype=np.uint8)
    return torch.from_numpy(rows)


def random_indices(content_ids: Tensor, count: int, seed: int = 0) -> Tensor:
    """Choose an index below `count` for each image by a hash of (seed, content id): the same on every rank and epoch.

    Args:
        content_ids: int64 `(n,)`.
        count: number of values, at least 1.
        seed: another seed, another choice.

    Returns:
        int64 `(n,)` in [0, count), near uniform, on the device of `content_ids`.
    """
    if count < 1:
        raise ValueError(f"found {count} values to choose from, expected at least one")
    # SplitMix64's finaliser in torch: int64 products wrap around, the masks turn arithmetic shifts into logical ones
    offset = (seed + 1) * int(GOLDEN) % 2**64
    mixed = content_ids.to(torch.int64) + (offset - 2**64 if offset >= 2**63 else offset)
    mixed = (mixed ^ ((mixed >> 30) & ((1 << 34) - 1))) * -0x40A7B892E31B1A47
    mixed = (mixed ^ ((mixed >> 27) & ((1 << 37) - 1))) * -0x6B2FB644ECCEEE15
    mixed = mixed ^ ((mixed >> 31) & ((1 << 33) - 1))
    return (mixed & ((1 << 62) - 1)) % count
