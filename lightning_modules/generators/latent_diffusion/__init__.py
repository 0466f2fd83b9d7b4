"""Latent diffusion (Rombach et al. 2022): a first stage, a U-Net on its latents, a DDIM sampler, checkpoint readers."""

from lightning_modules.generators.latent_diffusion.generator import LatentDiffusionGenerator

__all__ = ["LatentDiffusionGenerator"]
