"""Vector quantisation with a straight-through gradient (van den Oord et al. 2017, section 3.2)."""

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


SEARCH_SIZE = 2**25
"""Distances held at once during the search: 128 MiB in float32."""


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Find the nearest code of each vector in Euclidean distance.

    Args:
        vectors: `(n, c)`.
        codebook: `(k, c)`.

    Returns:
        int64 `(n,)` in [0, k).
    """
    norms = codebook.square().sum(dim=1)
    rows = max(1, SEARCH_SIZE // len(codebook))
    # |v|^2 is the same for every code and left out
    found = [(norms - 2.0 * part @ codebook.T).argmin(dim=1) for part in torch.split(vectors, rows)]
    return torch.cat(found) if found else vectors.new_zeros(0, dtype=torch.int64)


def quantise(latents: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the vector at each place by its nearest code.

    Args:
        latents: `(n, c, h, w)`.
        codebook: `(k, c)`.

    Returns:
        codes `(n, c, h, w)` and their numbers `(n, h, w)`. The codes have no gradient with respect to the latents;
        see `straight_through`.
    """
    n, _, h, w = latents.shape
    numbers = nearest_codes(latents.permute(0, 2, 3, 1).flatten(0, 2), codebook).view(n, h, w)
    return codebook[numbers].permute(0, 3, 1, 2), numbers


def straight_through(latents: Tensor, codes: Tensor) -> Tensor:
    """Return the values of `codes` with the gradient of `latents`."""
    return latents + (codes - latents).detach()
