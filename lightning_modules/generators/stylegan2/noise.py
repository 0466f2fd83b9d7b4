"""The noise maps of StyleGAN2: which random pattern each layer adds."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.generators.latents import standard_normal_latents

FIRST_STREAM = 2**63
"""Index of the first noise map's stream: out of reach of any sample's index, so that no map repeats a latent."""

_FIXED = re.compile(r"fixed\((\d+)\)")


def check_noise(noise: str) -> str:
    """Return a noise mode if it is one.

    Raises:
        ValueError: not `fixed(SEED)`, `buffers`, `random` or `none`.
    """
    if noise not in ("buffers", "random", "none") and not _FIXED.fullmatch(noise):
        raise ValueError(
            f"found noise {noise!r}, expected 'fixed(SEED)' (the same maps for every image), 'buffers' (the "
            "checkpoint's own maps), 'random' (new maps for every image) or 'none'"
        )
    return noise


def noise_maps(noise: str, buffers: Sequence[Tensor], n: int) -> list[Tensor | None]:
    """Maps for each layer, `(1 or n, 1, r, r)` standard normal, or None where nothing is added.

    Args:
        noise: `fixed(SEED)`: map of layer i depends on (SEED, i) alone; `buffers`; `random`: drawn from torch's
            global stream for each image; `none`.
        buffers: the checkpoint's own maps `(1, 1, r, r)`, which also tell size, dtype and device.
        n: number of images.

    Raises:
        ValueError: unknown noise mode.
    """
    check_noise(noise)
    if noise == "none":
        return [None] * len(buffers)
    if noise == "buffers":
        return list(buffers)
    if noise == "random":
        return [torch.randn((n, *b.shape[1:]), dtype=b.dtype, device=b.device) for b in buffers]
    seed = int(noise[len("fixed(") : -1])
    return [
        standard_normal_latents(1, b.numel(), seed, FIRST_STREAM + layer).view_as(b).to(b)
        for layer, b in enumerate(buffers)
    ]
