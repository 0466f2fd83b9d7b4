"""Keys as bits: drawing them, writing them down, telling how far apart they are."""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
import torch
from torch import Tensor

ATTEMPTS = 100_000
_LETTERS = str.maketrans("0123456789abcdef", "bcdfghjklmnpqrst")  # no number or date to a spreadsheet


def random_key(bits: int) -> Tensor:
    """A key of independent fair bits from the operating system's secure source, bool `(bits,)`."""
    drawn = np.frombuffer(secrets.token_bytes((bits + 7) // 8), dtype=np.uint8)
    return torch.from_numpy(np.unpackbits(drawn)[:bits].astype(bool))


def new_key(taken: Tensor, bits: int, minimum_distance: int = 0) -> Tensor:
    """Draw a key, bool `(bits,)`, that differs from every key taken, bool `(n, bits)`, in at least so many bits.

    Raises:
        ValueError: no such key was found in many draws: the distance is too large for so many users.
    """
    for _ in range(ATTEMPTS):
        key = random_key(bits)
        if len(taken) == 0 or int(hamming_distance(key[None], taken).min()) >= max(1, minimum_distance):
            return key
    raise ValueError(
        f"found no key of {bits} bits at distance {max(1, minimum_distance)} from {len(taken)} others in {ATTEMPTS} "
        "draws; lower the minimum distance or use a fingerprint of more bits"
    )


def hamming_distance(keys: Tensor, others: Tensor) -> Tensor:
    """Bits in which keys `(n, m)` and others `(k, m)` differ, int64 `(n, k)`; exact for m up to 2**24."""
    a, b = keys.float(), others.float()
    return (a.sum(dim=1, keepdim=True) + b.sum(dim=1) - 2.0 * a @ b.T).round().long()


def key_to_text(key: Tensor) -> str:
    """Write a key `(m,)` as hexadecimal digits, first bit first, padded with zeros at the end."""
    return np.packbits(key.cpu().numpy().astype(np.uint8)).tobytes().hex()


def key_from_text(text: str, bits: int) -> Tensor:
    """Read a key written by `key_to_text`, or as 0s and 1s.

    Raises:
        ValueError: not a key of that length; the text itself, a secret, is not repeated.
    """
    if len(text) == bits and bits > 1 and set(text) <= {"0", "1"}:
        return torch.tensor([digit == "1" for digit in text])
    try:
        unpacked = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))
    except ValueError:
        unpacked = np.zeros(0, dtype=np.uint8)
    if len(unpacked) != -(-bits // 8) * 8 or unpacked[bits:].any():
        raise ValueError(f"found {len(text)} characters, expected a key of {bits} bits as 0s and 1s or as hexadecimal")
    return torch.from_numpy(unpacked[:bits].astype(bool))


def key_check(user: str, key: Tensor) -> str:
    """Eight letters that tell whether a user and their key `(m,)` were copied rightly: 32 bits of a hash of the two.

    As secret as the key: whoever has a short key's letters can find the key.
    """
    digest = hashlib.blake2b(f"{user}\0{key_to_text(key)}".encode(), digest_size=4)
    return digest.hexdigest().translate(_LETTERS)
