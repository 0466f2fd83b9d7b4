"""Random numbers that belong to an image: keyed by (experiment seed, sample index, attack), never by call order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import blake2b

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

    Raises:
        ValueError: a negative index, or a seed out of its range.
    """
    positions = np.asarray(index.cpu() if isinstance(index, Tensor) else index, dtype=np.int64).reshape(-1)
    if not 0 <= seed < 2**64:
        raise ValueError(f"expected an experiment seed 0 <= seed < 2**64, found {seed}")
    if positions.size and positions.min() < 0:
        raise ValueError(f"expected sample indices of at least 0, found {positions.min()}")
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        start = _mix(np.array([seed], dtype=np.uint64) + GOLDEN)
        return torch.from_numpy(_mix(positions.astype(np.uint64) + start).view(np.int64))


def draw_streams(
    seeds: NDArray[np.int64], attack: str, uniforms: int, normals: tuple[int, ...] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
    """Draw what one attack needs for each image, first its uniform numbers, then its normal ones.

    Each image has its own counter-based stream (Philox, Salmon et al. 2011) with the key (image seed, hash of the
    attack's kind). An attack always draws the same count of uniforms, so that a preset with random parameters and one
    with fixed ones put the same noise on the same image: strengths are compared on common random numbers.

    Args:
        seeds: int64 `(n,)`, one per image.
        attack: kind of the attack; two kinds never share a stream.
        uniforms: how many uniform numbers per image.
        normals: shape of the normal numbers of one image, or None for none.

    Returns:
        float64 `(n, uniforms)` in [0, 1), and float32 `(n, *normals)`, N(0, 1), or None.
    """
    uniform = np.empty((len(seeds), uniforms), dtype=np.float64)
    normal = None if normals is None else np.empty((len(seeds), *normals), dtype=np.float32)
    for row, seed in enumerate(seeds.view(np.uint64)):
        stream = np.random.Generator(np.random.Philox(key=np.array([seed, _attack_key(attack)], dtype=np.uint64)))
        uniform[row] = stream.random(uniforms)
        if normal is not None:
            stream.standard_normal(dtype=np.float32, out=normal[row])
    return uniform, normal


@cache
def _attack_key(attack: str) -> int:
    return int.from_bytes(blake2b(f"attack {attack}".encode(), digest_size=8).digest(), "little")


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


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
