"""StyleGAN2 config-f in plain torch: the generator, a discriminator to train it, readers of public checkpoints."""

from lightning_modules.generators.stylegan2.generator import StyleGAN2Generator, config_f_channels

__all__ = ["StyleGAN2Generator", "config_f_channels"]
