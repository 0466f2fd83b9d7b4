"""The first stage of latent diffusion: images to a small grid of vectors and back (Rombach et al. 2022, 3.1).

Its vector quantisation has a straight-through gradient (van den Oord et al. 2017, section 3.2); the patch discriminator
and its losses train it (Isola et al. 2017; Esser et al. 2021, section 3.1).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_STAGES = ("vq", "kl")


class FirstStage(nn.Module):
    """An autoencoder whose latent is quantised in the decoder (`vq`) or Gaussian (`kl`).

    Images here are in [-1, 1]; latents are those of the encoder, not yet scaled for the diffusion.

    Args:
        kind: `vq` for diffusers' VQModel, `kl` for its AutoencoderKL.
        config: arguments of that class.

    Raises:
        ValueError: another kind.
    """

    def __init__(self, kind: str, config: dict[str, Any]) -> None:
        # importing diffusers takes seconds, which only those who build a model need to pay
        from diffusers import AutoencoderKL, VQModel

        super().__init__()
        if kind not in FIRST_STAGES:
            raise ValueError(f"found first stage {kind!r}, expected vq or kl")
        self.kind = kind
        config = {key: value for key, value in config.items() if not key.startswith("_")}
        classes: dict[str, Any] = {"vq": VQModel, "kl": AutoencoderKL}
        self.model: Any = classes[kind](**config)
        if self.model.config.get("lookup_from_codebook"):
            raise ValueError("found a VQ model whose latents are numbers of codes, expected vectors")
        self.channels = int(self.model.quant_conv.out_channels if kind == "vq" else self.model.config.latent_channels)
        self.factor = 2 ** (len(self.model.config.block_out_channels) - 1)

    @property
    def codebook(self) -> Tensor:
        """The codes `(k, c)` of a `vq` stage."""
        codes: Tensor = self.model.quantize.embedding.weight
        return codes

    def encode(self, images: Tensor) -> Tensor:
        """Map images `(n, 3, H, W)` in [-1, 1] to latents `(n, c, H / f, W / f)`; the mean of a `kl` stage."""
        encoded = self.model.encode(images)
        latents: Tensor = encoded.latents if self.kind == "vq" else encoded.latent_dist.mode()
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Map latents to images, about [-1, 1]; a `vq` stage quantises first, with a straight-through gradient."""
        if self.kind == "kl":
            decoded: Tensor = self.model.decode(latents).sample
            return decoded
        codes, _ = quantise(latents, self.codebook)
        return self.decode_codes(straight_through(latents, codes))

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Map codes `(n, c, h, w)` of a `vq` stage to images, about [-1, 1]."""
        decoded: Tensor = self.model.decode(codes, force_not_quantize=True).sample
        return decoded


@torch.no_grad()
def fill_codebook(codebook: Tensor, vectors: Tensor) -> None:
    """Set every code `(k, c)`, in place, to a vector drawn from `(n, c)`, slightly shaken so that no two are equal."""
    restart_codes(codebook, vectors, torch.ones(len(codebook), dtype=torch.bool, device=codebook.device))


@torch.no_grad()
def restart_codes(codebook: Tensor, vectors: Tensor, chosen: Tensor) -> None:
    """Set the chosen codes to vectors drawn at random (as Dhariwal et al. 2020, section 3.1, revive dead codes).

    The codebook `(k, c)` is changed in place where `chosen` bool `(k,)` says so; `vectors` are latents `(n, c)`.
    """
    number = int(chosen.sum())
    drawn = vectors[torch.randint(len(vectors), (number,), device=vectors.device)]
    codebook[chosen] = drawn + 0.01 * vectors.std(dim=0) * torch.randn_like(drawn)


def codebook_use(counts: Tensor) -> tuple[float, float]:
    """Share of codes chosen at least once, and perplexity of the choice, k where all are chosen equally often.

    The counts `(k,)` say how often each code was chosen.
    """
    used = float((counts > 0).double().mean())
    share = counts.double() / counts.sum().clamp(min=1)
    return used, float(torch.special.entr(share).sum().exp())


SEARCH_SIZE = 2**25
"""Distances held at once during the search: 128 MiB in float32."""


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Number in [0, k) of the code `(k, c)` nearest to each vector `(n, c)` in Euclidean distance, int64 `(n,)`."""
    norms = codebook.square().sum(dim=1)
    rows = max(1, SEARCH_SIZE // len(codebook))
    # |v|^2 is the same for every code and left out
    found = [(norms - 2.0 * part @ codebook.T).argmin(dim=1) for part in torch.split(vectors, rows)]
    return torch.cat(found) if found else vectors.new_zeros(0, dtype=torch.int64)


def quantise(latents: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Replace the vector at each place of latents `(n, c, h, w)` by its nearest code of the codebook `(k, c)`.

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


class PatchDiscriminator(nn.Sequential):
    """Judges patches of an image: `(n, 3, H, W)` to one number each, `(n, 1, H / 4, W / 4)`; width a multiple of 4."""

    def __init__(self, width: int = 32) -> None:
        super().__init__(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(4, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator from its judgement of reals and of reconstructions (Lim & Ye 2017)."""
    return (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()) / 2.0


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Balance two scalar losses by their gradients at the decoder's last layer (Esser et al. 2021, Eq. 7).

    Returns the factor of the adversarial loss: a scalar without gradient, at most 10000.
    """
    (first,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (second,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    weight: Tensor = (first.norm() / (second.norm() + 1e-4)).clamp(max=1e4)
    return weight.detach()
