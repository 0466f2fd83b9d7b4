"""Which keys are refused because images without a key would be attributed to them.

A key of zeros or of ones alone is refused whatever the decoder. Beside it, a key is refused for which any image of the
fingerprint's bank (`fingerprints.unmarked_bank`) reaches the p-value that names its user: `RATE` over the number of
users, as `verdicts.attribute` decides.

Keys that are drawn again are no longer uniform, and a p-value is the chance of a *uniform* random key. Where a share q
of all keys is refused, the chance of any event among the others is at most 1 / (1 - q) times as large, so p-values and
false-positive rates hold up to that factor. By Boole's inequality q is at most `RATE` times the bank's images over the
number of users, plus 2 / 2^m: 0.1 % for a bank of a thousand images and one user, and less for more users. Of 100,000
random keys the banks that ship refused 55 to 69 with one user, 5 to 11 with ten, 0 to 2 with a hundred, none with
10,000.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_modules.common.shipped import TRAINED
from lightning_modules.fingerprints.fingerprint import FingerprintError
from lightning_modules.fingerprints.unmarked_bank import FILE_NAME, UnmarkedBank, read_bank
from lightning_modules.fingerprints.users.keys import Packed, constant_keys, packed_bytes
from lightning_modules.metrics.evidence import bit_weights, check_rate, cumulated, p_value, smallest_p_value, trusted

RATE = 1e-6
"""The false-positive rate over all users that keys are checked for: the one that `predict` keeps to by default."""
CELLS = 1024
"""Steps in which the weight of an image is divided for a first look at which keys come near."""
KEYS_AT_ONCE = 2048
MOST_DRAWN = 4096  # keys drawn ahead


@dataclass(frozen=True)
class Near:
    """A key, and an image without it that would be attributed to its holder."""

    key: int  # place of the key among those that were checked
    image: str  # what it is, for people; "" for a key that needs none
    p_value: float  # chance that a random key agrees with the image as well; 1 for a key that needs no image


class KeyCheck:
    """Tells which of many keys are refused among so many users.

    Args:
        bits: length m of a key.
        bank: of the keys' fingerprint; None checks for zeros and ones alone.
        users: among whom an image is attributed.
        rate: false-positive rate over all of them, in (0, 1).

    Raises:
        ValueError: a bank of another length, or a rate outside (0, 1).
    """

    def __init__(self, bits: int, bank: UnmarkedBank | None, users: int, rate: float = RATE) -> None:
        check_rate(rate)
        self.bits, self.rate = bits, rate / max(1, users)
        self.images: list[str] = []
        self._weights: NDArray[np.int64] = np.zeros((0, bits), dtype=np.int64)
        signs = np.zeros((0, bits), dtype=bool)
        if bank is not None and bank.bits != bits:
            raise ValueError(f"found a bank of {bank.bits} bits, expected {bits}")
        if bank is not None and smallest_p_value(bits) <= self.rate:  # else not even equal bits name anybody
            weights = bit_weights(trusted(bank.log_odds.float()))
            most = np.array([_most_against(row, self.rate) for row in weights])
            kept = most >= 0
            self.images = [name for name, keep in zip(bank.names, kept, strict=True) if keep]
            self._weights, signs = weights[kept], (bank.log_odds > 0).numpy()[kept]
            self._least = (self._weights.sum(axis=1) - 2 * most[kept]).astype(np.float32)
        # weights are whole and add up to 2^18 or so: products with them are exact in float32, in any order of terms
        self._signed = np.where(signs, self._weights, -self._weights).T.astype(np.float32)  # (m, images)

    def refused(self, table: Packed) -> list[Near]:
        """Of packed keys `(n, ceil(m / 8))`, those that are refused, once each, in their order."""
        found: dict[int, Near] = {}
        for constant in constant_keys(self.bits):
            same = (table == np.frombuffer(constant, dtype=np.uint8)).all(axis=1)
            found |= {int(key): Near(int(key), "", 1.0) for key in same.nonzero()[0]}
        for start in range(0, len(table) if self.images else 0, KEYS_AT_ONCE):
            bits = np.unpackbits(table[start : start + KEYS_AT_ONCE], axis=1, count=self.bits)
            for_key = (2.0 * bits - 1.0).astype(np.float32) @ self._signed  # weight for it, less that against it
            close = for_key >= self._least
            if not close.any():
                continue
            for place in close.any(axis=1).nonzero()[0]:
                key = start + int(place)
                if key not in found and (near := self._near(key, for_key[place], close[place])) is not None:
                    found[key] = near
        return [found[key] for key in sorted(found)]

    def _near(self, key: int, for_key: NDArray[np.float32], close: NDArray[np.bool_]) -> Near | None:
        """The exact decision on one key, beginning with the images that have least weight against it."""
        sums = self._weights.sum(axis=1)
        against = (sums - for_key.astype(np.int64)) // 2
        images = close.nonzero()[0]
        for image in images[np.argsort(against[images] / sums[images], kind="stable")]:
            chance = p_value(self._weights[image], int(against[image]))
            if chance <= self.rate:
                return Near(key, self.images[image], chance)
        return None

    def draws(self, count: int) -> Iterator[bytes]:
        """Packed random keys without end, from the operating system's secure source, without those refused.

        They are drawn ahead, `count` at a time at most.
        """
        size = packed_bytes(self.bits)
        padding = np.uint8(0xFF << (-self.bits % 8) & 0xFF)
        while True:
            ahead = max(1, min(count, MOST_DRAWN))
            drawn = np.frombuffer(secrets.token_bytes(size * ahead), dtype=np.uint8).reshape(ahead, size).copy()
            drawn[:, -1] &= padding
            bad = {near.key for near in self.refused(drawn)}
            yield from (row.tobytes() for place, row in enumerate(drawn) if place not in bad)


def _most_against(weights: NDArray[np.int64], rate: float) -> int:
    """No key with more than this weight against it has a p-value within the rate; -1 where none has.

    Each weight of the image `(m,)` is rounded up to whole cells, which makes sums larger and p-values smaller.
    """
    used = int(np.count_nonzero(weights))
    if not used or smallest_p_value(used) > rate:
        return -1
    cell = max(1, -(-int(weights.sum()) // CELLS))
    cells = -(-weights // cell)
    within = int(np.searchsorted(cumulated(cells, int(cells.sum()) // 2), rate, side="right"))
    return within * cell - 1


def find_bank(home: str | Path | None, fingerprint: str) -> UnmarkedBank | None:
    """The bank of a fingerprint of that id: in the folder `home`, else among those that ship; None if there is none.

    Raises:
        FingerprintError: the folder has a bank that is damaged, or that of another fingerprint.
    """
    if home and (file := Path(home) / FILE_NAME).is_file():
        return read_bank(file, fingerprint)
    for file in sorted(TRAINED.glob(f"*/{FILE_NAME}")):
        try:
            return read_bank(file, fingerprint)
        except FingerprintError:
            continue
    return None
