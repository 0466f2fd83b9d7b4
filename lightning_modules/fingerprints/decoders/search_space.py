"""Where keys of a generator are searched for: a smooth map of latents to images, and how far its coordinates spread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_modules.common.random_streams import standard_normal_latents
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.generators.protocol import Generator

DRAWS = 256
LEAK = 0.02
"""Slope of a pixel beyond black or white: a saved file has none, a search without any would never come back."""


@dataclass(frozen=True)
class SearchSpace:
    """A smooth map of latents `(n, d)` to images and the spread of what is put into it.

    A vector-quantised decoder is piecewise constant, so no search can follow its slopes; the decoder behind the
    quantisation is smooth. A key is then looked for in the codes, which are latent plus quantisation error, and the
    deviation of each coordinate grows by that error's, by the factors `widening` `(k,)`.
    """

    synthesize: Callable[[Tensor], Tensor]
    fingerprint: Fingerprint
    widening: Tensor

    def shown(self, alpha: Tensor, keys: Tensor) -> Tensor:
        """Images `(n, 3, H, W)`, in [0, 1] but for `LEAK`, of alpha `(n, k)` in deviations and keys `(n, m)`."""
        return leaky(self.synthesize(self.fingerprint.latents(alpha, keys)))


def leaky(images: Tensor) -> Tensor:
    """Images clamped to [0, 1] but for a `LEAK`."""
    shown = images.clamp(0.0, 1.0)
    return shown + LEAK * (images - shown)


@torch.no_grad()
def search_space(generator: Generator, fingerprint: Fingerprint) -> SearchSpace:
    """The space to search a generator's keys in, with tensors of its own that autograd can work with.

    Raises:
        ValueError: a generator that draws noise anew for each image, so that no slope can be found.
    """
    if not getattr(generator, "reproducible", True):
        raise ValueError(
            "found a generator that draws new noise for each image, expected one noise in all images of a search; "
            "name it with --model.init_args.decoder.noise none or 'fixed(7)', or read keys with the decoder amortised"
        )
    with torch.inference_mode(False):  # where tensors of this mode were moved to a device, they cannot be learned from
        return _space(generator, fingerprint.clone())


def _space(generator: Generator, fingerprint: Fingerprint) -> SearchSpace:
    smooth = getattr(generator, "synthesize_codes", None)
    if smooth is None:
        return SearchSpace(generator.synthesize, fingerprint, torch.ones_like(fingerprint.other_deviation))
    normals = standard_normal_latents(DRAWS, fingerprint.latent_dim, seed=0).to(fingerprint.mean)
    keys = torch.arange(DRAWS * fingerprint.bits, device=normals.device).view(DRAWS, -1) % 2
    latents = fingerprint.embed(fingerprint.gaussian_latents(normals), keys)
    error: float = generator.quantisation_error(latents)  # type: ignore[attr-defined]
    wide = (fingerprint.other_deviation.square() + error**2).sqrt()
    return SearchSpace(smooth, replace(fingerprint, other_deviation=wide), wide / fingerprint.other_deviation)
