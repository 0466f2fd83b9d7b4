"""LightningModules that train the small generators of GM-Fashion, one per source."""

from lightning_modules.zoo.beta_vae import BetaVAE
from lightning_modules.zoo.dcgan import DCGAN
from lightning_modules.zoo.ddpm import DDPM
from lightning_modules.zoo.ldm import LatentDiffusion
from lightning_modules.zoo.realnvp import RealNVP
from lightning_modules.zoo.stylegan2 import StyleGAN2
from lightning_modules.zoo.wgan_gp import WGANGP

__all__ = ["DCGAN", "DDPM", "WGANGP", "BetaVAE", "LatentDiffusion", "RealNVP", "StyleGAN2"]
