"""Keeping a codebook in use while it is trained: codes start as latents, and unused ones start again."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def fill_codebook(codebook: Tensor, vectors: Tensor) -> None:
    """Set every code to a vector drawn at random, slightly shaken so that no two codes are equal.

    Args:
        codebook: `(k, c)`, changed in place.
        vectors: latents `(n, c)`, n at least 1.
    """
    restart_codes(codebook, vectors, torch.ones(len(codebook), dtype=torch.bool, device=codebook.device))


@torch.no_grad()
def restart_codes(codebook: Tensor, vectors: Tensor, chosen: Tensor) -> None:
    """Set the chosen codes to vectors drawn at random (as Dhariwal et al. 2020, section 3.1, revive dead codes).

    Args:
        codebook: `(k, c)`, changed in place.
        vectors: latents `(n, c)`, n at least 1.
        chosen: bool `(k,)`.
    """
    number = int(chosen.sum())
    drawn = vectors[torch.randint(len(vectors), (number,), device=vectors.device)]
    codebook[chosen] = drawn + 0.01 * vectors.std(dim=0) * torch.randn_like(drawn)


def codebook_use(counts: Tensor) -> tuple[float, float]:
    """Describe how a codebook is used.

    Args:
        counts: how often each code was chosen, `(k,)`.

    Returns:
        share of codes chosen at least once, and perplexity of the choice: k where all are chosen equally often.
    """
    used = float((counts > 0).double().mean())
    share = counts.double() / counts.sum().clamp(min=1)
    return used, float(torch.special.entr(share).sum().exp())
