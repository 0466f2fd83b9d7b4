"""Keys as bits: drawing them, writing them down, telling how far apart they are, scoring many of them at once.

A packed key is its bits in bytes, first bit first, padded with zeros at the end: the binary form of `key_to_text`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Container, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Packed = NDArray[np.uint8]
"""Packed keys, `(n, ceil(m / 8))`."""

ATTEMPTS = 100_000
SHORTEST = 8
"""Keys of fewer bits than this may be all zeros or all ones: too few others are left."""
KEYS_AT_ONCE = 65_536  # keys scored in one step: what a step needs stays in the processor's cache
KEYS_IN_A_PRODUCT = 2048  # the same, where all readings are scored in one step
_LETTERS = str.maketrans("0123456789abcdef", "bcdfghjklmnpqrst")  # no number or date to a spreadsheet


def random_key(bits: int) -> bytes:
    """A packed key of independent fair bits from the operating system's secure source."""
    drawn = bytearray(secrets.token_bytes(packed_bytes(bits)))
    drawn[-1] &= 0xFF << (-bits % 8) & 0xFF
    return bytes(drawn)


def constant_keys(bits: int) -> tuple[bytes, ...]:
    """The packed keys of zeros alone and of ones alone, which nobody is given; none of fewer than `SHORTEST` bits.

    A decoder that answers one value wherever it knows nothing answers such a key, and the key of zeros of a fingerprint
    that is not centred marks no image.
    """
    ones = np.packbits(np.ones(bits, dtype=bool)).tobytes()
    return (bytes(len(ones)), ones) if bits >= SHORTEST else ()


def new_key(
    taken: Container[bytes],
    table: Packed,
    bits: int,
    minimum_distance: int = 0,
    draws: Iterator[bytes] | None = None,
) -> bytes:
    """Draw a packed key that differs from every key taken in at least so many bits, and in one at least.

    None of `constant_keys` is drawn.

    Args:
        taken: packed keys, where one is found without looking at all.
        table: the same keys; all of them are compared where a distance is asked for.
        bits: length m of a key.
        minimum_distance: bits.
        draws: where random keys come from; None for `random_key`.

    Raises:
        ValueError: no such key was found in many draws: the distance is too large for so many users.
    """
    constant = constant_keys(bits)
    for _ in range(ATTEMPTS):
        key = random_key(bits) if draws is None else next(draws)
        if key in taken or key in constant:
            continue
        if minimum_distance <= 1 or not len(table) or int(distances(key, table).min()) >= minimum_distance:
            return key
    raise ValueError(
        f"found no key of {bits} bits at distance {max(1, minimum_distance)} from {len(table)} others in {ATTEMPTS} "
        "draws; lower the minimum distance or use a fingerprint of more bits"
    )


def distances(key: bytes, table: Packed) -> NDArray[np.int64]:
    """Bits in which a packed key differs from each of many, int64 `(n,)`."""
    differing = np.bitwise_count(table ^ np.frombuffer(key, dtype=np.uint8))
    found: NDArray[np.int64] = differing.sum(axis=1, dtype=np.int64)
    return found


def packed_bytes(bits: int) -> int:
    """Bytes of a packed key of so many bits."""
    return -(-bits // 8)


def pack_keys(keys: Tensor) -> Packed:
    """Pack keys, bool `(n, m)`."""
    return np.packbits(keys.cpu().numpy().astype(bool), axis=1)


def unpack_keys(table: Packed, bits: int) -> Tensor:
    """The inverse of `pack_keys`: bool `(n, m)`."""
    return torch.from_numpy(np.unpackbits(table, axis=1, count=bits).astype(bool))


def pack_key(key: Tensor) -> bytes:
    """Pack one key, bool `(m,)`."""
    return pack_keys(key[None]).tobytes()


def unpack_key(key: bytes, bits: int) -> Tensor:
    """The inverse of `pack_key`: bool `(m,)`."""
    return unpack_keys(np.frombuffer(key, dtype=np.uint8)[None], bits)[0]


def weights_against(weights: NDArray[np.int64], decoded: Tensor, table: Packed) -> NDArray[np.int32]:
    """Weight of the bits in which packed keys differ from decoded ones, int32 `(n,)`.

    What a pair of bytes of a key adds is looked up: a key of 64 bits costs four look-ups, one of an odd number of bytes
    one for each of them.

    Args:
        weights: of the bits, `(m,)`; their sum fits into 31 bits.
        decoded: bits, bool `(m,)`.
        table: the keys.
    """
    width = table.shape[1]
    padded = np.zeros(8 * width, dtype=np.int64)  # bits of padding have no weight
    padded[: len(weights)] = weights
    bits = np.zeros(8 * width, dtype=np.uint8)
    bits[: len(weights)] = decoded.cpu().numpy()
    values = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)  # (256, 8)
    differing = values[None] != bits.reshape(width, 1, 8)
    added = (differing * padded.reshape(width, 1, 8)).sum(axis=2).astype(np.int32)  # (width, 256)
    if width % 2 == 0:  # the first byte of a pair is the low one
        added = (added[1::2, :, None] + added[0::2, None, :]).reshape(width // 2, -1)
        table = np.ascontiguousarray(table).view("<u2")
    found = np.empty(len(table), dtype=np.int32)
    for start in range(0, len(table), KEYS_AT_ONCE):
        columns = table[start : start + KEYS_AT_ONCE].T
        sums = found[start : start + KEYS_AT_ONCE]
        np.take(added[0], columns[0], out=sums, mode="clip")
        for sub_table, column in zip(added[1:], columns[1:], strict=True):
            sums += np.take(sub_table, column, mode="clip")
    return found


def least_weights_against(weights: NDArray[np.int64], decoded: NDArray[np.bool_], table: Packed) -> NDArray[np.float32]:
    """By reading, the least weight of the bits in which any packed key differs from the decoded ones, `(r,)`.

    One product of matrices for all readings together, exact, since float32 holds whole numbers up to 2^24: 110 readings
    of a million keys take a quarter of the time of as many `weights_against`.

    Args:
        weights: of the bits by reading, `(r, m)`; those of a reading add up to less than 2^24.
        decoded: bits, `(r, m)`.
        table: the keys, at least one.
    """
    bits = weights.shape[1]
    for_ones = np.where(decoded, -weights, weights).astype(np.float32)  # what a 1 in a key adds to those of zeros alone
    of_zeros = np.where(decoded, weights, 0).sum(axis=1).astype(np.float32)
    least = np.full(len(weights), np.inf, dtype=np.float32)
    for start in range(0, len(table), KEYS_IN_A_PRODUCT):
        keys = np.unpackbits(table[start : start + KEYS_IN_A_PRODUCT], axis=1, count=bits).astype(np.float32)
        np.minimum(least, (for_ones @ keys.T).min(axis=1), out=least)
    least += of_zeros
    return least


def key_to_text(key: Tensor) -> str:
    """Write a key `(m,)` as hexadecimal digits, first bit first, padded with zeros at the end."""
    return pack_key(key).hex()


def packed_key(text: str, bits: int) -> bytes:
    """Read a packed key written by `key_to_text`, or as 0s and 1s.

    Raises:
        ValueError: not a key of that length; the text itself, a secret, is not repeated.
    """
    size = packed_bytes(bits)
    if len(text) == bits and bits > 1 and set(text) <= {"0", "1"}:
        return (int(text, 2) << (-bits % 8)).to_bytes(size, "big")
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != size or found[-1] & (1 << (-bits % 8)) - 1:
        raise ValueError(f"found {len(text)} characters, expected a key of {bits} bits as 0s and 1s or as hexadecimal")
    return found


def key_from_text(text: str, bits: int) -> Tensor:
    """Read a key `(m,)` as `packed_key` does.

    Raises:
        ValueError: not a key of that length.
    """
    return unpack_key(packed_key(text, bits), bits)


def key_check(user: str, key: bytes) -> str:
    """Eight letters that tell whether a user and their packed key were copied rightly: 32 bits of a hash of the two.

    As secret as the key: whoever has a short key's letters can find the key.
    """
    digest = hashlib.blake2b(f"{user}\0{key.hex()}".encode(), digest_size=4)
    return digest.hexdigest().translate(_LETTERS)
