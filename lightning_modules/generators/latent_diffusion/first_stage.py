"""The first stage of latent diffusion: images to a small grid of vectors and back (Rombach et al. 2022, 3.1)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_modules.generators.latent_diffusion.quantisation import quantise, straight_through

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
