"""How many bits match by chance: the law of matching bits where an image does not carry the key it is compared with.

Keys are independent fair bits, so whatever bits a decoder returns, the number that match one key drawn without regard
to them is binomial with probability 1/2. This needs no assumption about images or decoders.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom


def match_p_value(matching: int, bits: int) -> float:
    """Probability that at least so many of `bits` fair bits match by chance.

    Raises:
        ValueError: more matches than bits, or a negative number.
    """
    if not 0 <= matching <= bits:
        raise ValueError(f"found {matching} matching of {bits} bits, expected 0 to {bits}")
    return float(binom.sf(matching - 1, bits, 0.5))


def bits_needed(bits: int, false_positive_rate: float, users: int = 1) -> int | None:
    """Fewest matching bits whose p-value, times the number of users, stays within a false-positive rate.

    Returns:
        The number; None where not even a match of all bits is enough.

    Raises:
        ValueError: a rate outside (0, 1).
    """
    if not 0.0 < false_positive_rate < 1.0:
        raise ValueError(f"found false-positive rate {false_positive_rate}, expected a number between 0 and 1")
    p_values = binom.sf(np.arange(bits + 1) - 1, bits, 0.5) * users
    enough = np.flatnonzero(p_values <= false_positive_rate)
    return int(enough[0]) if len(enough) else None


def alone_at_the_top(bits: int, users: int) -> NDArray[np.float64]:
    """Probability that no other user's key matches as well, by number of bits that match one's own.

    The others hold independent random keys, so with k matching bits none of the N - 1 others reaches k with probability
    `(1 - P(Bin(m, 1/2) >= k)) ** (N - 1)`: exact, where a simulation would need N keys for every image. An equally good
    match of another counts as a failure.

    Args:
        bits: length m of a key.
        users: N, the holder of the true key among them.

    Returns:
        float64 `(m + 1,)`, entry k for k matching bits.

    Raises:
        ValueError: fewer than two users, among whom nobody can be mistaken.
    """
    if users < 2:
        raise ValueError(f"found {users} users to identify one among, expected at least 2")
    tails = binom.sf(np.arange(bits + 1) - 1, bits, 0.5)
    with np.errstate(divide="ignore"):  # log(0) at k = 0, where every other matches as well
        return np.asarray(np.exp((users - 1) * np.log1p(-tails)), dtype=np.float64)
