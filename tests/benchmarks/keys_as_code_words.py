"""Would an error-correcting code name more users than soft matching does?

    python tests/benchmarks/keys_as_code_words.py

Keys of 64 random bits are matched softly: the user is named whose key has a p-value of at most 1e-6 over the number of
users. Instead, keys could be the words of a code with messages of k random bits: whatever is decoded, it is a given
user's message by chance with 2^-k, so that a million users at 1e-6 need 40 bits, and 50 users 26. The same log odds of
the same images go both ways. Words are decoded by ordered statistics of order 3 (Fossorier & Lin 1995), which for
these lengths is next to the most likely word. A key on its way is a word of some coset of the code, which is all that
decoding needs: nothing is marked anew.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from numpy.typing import NDArray
from test_long_keys import LDM64, RATE, marked

from lightning_modules.attacks import image_seeds, make_attack
from lightning_modules.latent_fingerprint import LatentFingerprint
from lightning_modules.metrics.evidence import p_values

CONDITIONS = ("clean", "paper-scaled-noise", "paper-scaled-jpeg", "paper-scaled-combination", "scaling_0.5")
ORDER = 3


def random_code(message: int, length: int, seed: int) -> NDArray[np.uint8]:
    """A random linear code as its generator matrix (k, n)."""
    return np.random.default_rng(seed).integers(0, 2, (message, length), dtype=np.uint8)


def decode(log_odds: NDArray[np.float64], code: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The likeliest word (n,) that is found, from log odds (n,) of ones."""
    hard = (log_odds > 0).astype(np.uint8)
    cost = np.abs(log_odds)
    order = np.argsort(-cost)
    rows, places = code[:, order].copy(), []
    for column in range(rows.shape[1]):  # the most reliable places that carry a message
        found = np.flatnonzero(rows[len(places) :, column])
        if not len(found):
            continue
        row = len(places)
        rows[[row, row + found[0]]] = rows[[row + found[0], row]]
        others = rows[:, column].astype(bool)
        others[row] = False
        rows[others] ^= rows[row]
        places.append(column)
        if len(places) == len(rows):
            break
    rows = rows[: len(places)]
    first = (hard[order][places] @ rows) % 2
    words = [first[None]]
    for flips in range(1, ORDER + 1):
        chosen = np.array(list(itertools.combinations(range(len(rows)), flips)))
        word = np.repeat(first[None], len(chosen), axis=0)
        for place in range(flips):
            word = word ^ rows[chosen[:, place]]
        words.append(word)
    every = np.concatenate(words)
    best = every[np.argmin((every ^ hard[order]) @ cost[order])]
    word = np.empty_like(best)
    word[order] = best
    return word


def main() -> None:
    """Measure and print."""
    module = LatentFingerprint.load_from_checkpoint(LDM64 / "checkpoints" / "last.ckpt").eval()
    own, images = marked(module, 100)
    seeds, network = image_seeds(0, torch.arange(len(images))), module.network
    for name in CONDITIONS:
        seen = images if name == "clean" else make_attack(name).real(images, seeds)
        with torch.no_grad():
            log_odds = torch.cat([network(part)[0] for part in seen.split(64)]).double()
        chances = p_values(log_odds, own)
        # in the coset of the true key the word of zeros is the right one
        towards = (log_odds * torch.where(own, -1.0, 1.0)).numpy()
        told = []
        for users, message in ((50, 26), (1_000_000, 40)):
            soft = float((chances * users <= RATE).double().mean())
            right = [not decode(row, random_code(message, 64, place)).any() for place, row in enumerate(towards)]
            told.append(f"{users:,} users: soft matching {100 * soft:.1f} %, code {100 * np.mean(right):.1f} %")
        print(f"{name}: {'; '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
