"""Latent diffusion as a generator of this project: its latent is the denoised one, its images are in [0, 1]."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_modules.common.random_streams import standard_normal_latents
from lightning_modules.generators.latent_diffusion.denoiser import (
    check_sampling,
    ddim_chain,
    make_denoiser,
    make_scheduler,
)
from lightning_modules.generators.latent_diffusion.first_stage import FirstStage, quantise

OPTIONS = ("steps", "eta", "guidance", "batch")


class LatentDiffusionGenerator(nn.Module):
    """A diffusion model on the latents of an autoencoder (Rombach et al. 2022).

    The protocol's latent is what the diffusion ends with: `sample_latents` runs the chain, `synthesize` decodes.

    Args:
        first_stage: `{"kind": "vq" | "kl", "config": {...}}`, the config of diffusers' VQModel or AutoencoderKL.
        unet: `{"kind": "image" | "text", "config": {...}}`, the config of UNet2DModel or UNet2DConditionModel; a
            `text` one has besides `prompts: [k, tokens, width]`, the shape of its prompt embeddings.
        scheduler: config of a diffusers scheduler of the DDPM family: betas, what the network predicts.
        scale_factor: what the encoder's latents are multiplied by for the diffusion.
        image_size: height and width of an image.
        steps: steps of the sampler.
        eta: 0 for DDIM, 1 for DDPM's noise.
        guidance: scale of classifier-free guidance (Ho & Salimans 2022); 1 is none. For `text` alone.
        batch: rows of latents sampled together; changes speed and memory, and results in rounding alone.

    Attributes:
        arguments: what the constructor was given, as plain values.

    Raises:
        ValueError: arguments that do not go together.
    """

    def __init__(
        self,
        first_stage: dict[str, Any],
        unet: dict[str, Any],
        scheduler: dict[str, Any],
        scale_factor: float = 1.0,
        image_size: int = 32,
        steps: int = 50,
        eta: float = 0.0,
        guidance: float = 1.0,
        batch: int = 32,
    ) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = copy.deepcopy(
            {
                "first_stage": first_stage,
                "unet": unet,
                "scheduler": scheduler,
                "scale_factor": float(scale_factor),
                "image_size": image_size,
                "steps": steps,
                "eta": eta,
                "guidance": guidance,
            }
        )
        self.first_stage = FirstStage(**first_stage)
        self.unet = make_denoiser(**unet)
        self.scheduler = dict(scheduler)
        self.scale_factor = float(scale_factor)
        self.image_size = image_size
        if image_size % self.first_stage.factor:
            raise ValueError(
                f"found image size {image_size}, expected a multiple of {self.first_stage.factor}, which the first "
                "stage divides it by"
            )
        if self.unet.channels != self.first_stage.channels:
            raise ValueError(
                f"found a U-Net for {self.unet.channels} channels and a first stage with {self.first_stage.channels} "
                "latent channels, expected the same number"
            )
        given = int(self.unet.model.config.out_channels)
        if given != self.unet.channels:
            raise ValueError(
                f"found a U-Net that gives {given} channels for {self.unet.channels}, expected as many: one that "
                "predicts its variance as well is not supported"
            )
        side = image_size // self.first_stage.factor
        self.latent_shape = (self.first_stage.channels, side, side)
        self.latent_dim = self.first_stage.channels * side**2
        self.configure(steps=steps, eta=eta, guidance=guidance, batch=batch)

    def configure(self, **options: Any) -> Self:
        """Set how latents are sampled: `steps`, `eta`, `guidance`, `batch`, as in the constructor.

        Raises:
            ValueError: an unknown option or value.
        """
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise ValueError(f"found option {unknown[0]!r} for latent diffusion, expected one of {', '.join(OPTIONS)}")
        steps = int(options.get("steps", getattr(self, "steps", 50)))
        eta = float(options.get("eta", getattr(self, "eta", 0.0)))
        guidance = float(options.get("guidance", getattr(self, "guidance", 1.0)))
        batch = int(options.get("batch", getattr(self, "batch", 32)))
        check_sampling(make_scheduler(self.scheduler), steps, eta)
        self.unet.check_guidance(guidance)
        if batch < 1:
            raise ValueError(f"found batch={batch}, expected at least 1")
        self.steps, self.eta, self.guidance, self.batch = steps, eta, guidance, batch
        return self

    @property
    def sampling(self) -> dict[str, Any]:
        """How latents are sampled, as `configure` takes it."""
        return {"steps": self.steps, "eta": self.eta, "guidance": self.guidance}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @torch.no_grad()
    def sample_latents(self, n: int, seed: int, start: int = 0) -> Tensor:
        """Run the chain from noise to denoised latents `(n, d)`.

        Row i depends on `(seed, start + i)` alone: its own stream gives the first noise and then that of each step, so
        that the first noise is the same for every `steps` and `eta`.
        """
        numbers = 1 + (self.steps if self.eta > 0.0 else 0)
        rows = []
        for first in range(start, start + n, self.batch):
            count = min(self.batch, start + n - first)
            noise = standard_normal_latents(count, numbers * self.latent_dim, seed, first)
            noise = noise.view(count, numbers, *self.latent_shape).to(self.device)
            index = torch.arange(first, first + count, device=self.device)
            rows.append(self.denoise(noise, index).flatten(1))
        return torch.cat(rows) if rows else torch.empty(0, self.latent_dim, device=self.device)

    def denoise(self, noise: Tensor, index: Tensor) -> Tensor:
        """Run the chain from given noise to scaled latents `(n, c, h, w)`.

        Args:
            noise: `(n, 1, c, h, w)`, or with eta > 0 `(n, 1 + steps, c, h, w)`.
            index: int64 `(n,)`, the samples' numbers: which prompt each has.
        """

        def predict(x: Tensor, time: Tensor) -> Tensor:
            output: Tensor = self.unet(x, time, index, self.guidance)
            return output

        return ddim_chain(self.scheduler, predict, noise, self.steps, self.eta)

    def synthesize(self, latents: Tensor) -> Tensor:
        """Map latents `(n, d)` to RGB images `(n, 3, H, W)`, about [0, 1], not clamped, differentiable.

        Raises:
            ValueError: latents of another shape.
        """
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise ValueError(f"found latents of shape {tuple(latents.shape)}, expected (n, {self.latent_dim})")
        decoded = self.first_stage.decode(latents.view(-1, *self.latent_shape) / self.scale_factor)
        return (decoded + 1.0) / 2.0

    def synthesize_codes(self, latents: Tensor) -> Tensor:
        """As `synthesize`, without vector quantisation: latents `(n, d)` stand for codes, and may lie between them."""
        latents = latents.view(-1, *self.latent_shape) / self.scale_factor
        stage = self.first_stage
        return ((stage.decode_codes(latents) if stage.kind == "vq" else stage.decode(latents)) + 1.0) / 2.0

    def quantisation_error(self, latents: Tensor) -> float:
        """Root mean square of what vector quantisation changes in latents `(n, d)`, per coordinate; 0 without it."""
        if self.first_stage.kind != "vq":
            return 0.0
        shaped = latents.view(-1, *self.latent_shape) / self.scale_factor
        codes, _ = quantise(shaped, self.first_stage.codebook)
        return float((codes - shaped).square().mean().sqrt()) * self.scale_factor

    def encode(self, images: Tensor) -> Tensor:
        """Map images `(n, 3, H, W)` in [0, 1] to the latents `(n, d)` that stand for them."""
        return (self.first_stage.encode(images * 2.0 - 1.0) * self.scale_factor).flatten(1)

    def freeze(self) -> Self:
        """Switch to inference for good: evaluation mode, no parameter takes a gradient."""
        return self.eval().requires_grad_(False)
