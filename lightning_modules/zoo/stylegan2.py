"""Training of the StyleGAN2 source (Karras et al. 2020): logistic loss, lazy R1 and lazy path-length regularisation."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.generators.stylegan2.discriminator import StyleGAN2Discriminator
from lightning_modules.generators.stylegan2.generator import StyleGAN2Generator, config_f_channels
from lightning_modules.zoo.training import GeneratorTraining


class StyleGAN2(GeneratorTraining):
    """One discriminator and one generator update per batch; the two regularisers every few updates.

    Args:
        image_size: height and width of the images.
        image_channels: 3 for RGB, 1 for grey images.
        latent_dim: length of z and of w.
        mapping_layers: layers of the mapping network.
        channel_base: channels at a size are `min(channel_base / size, channel_max)`; 32768 in config-f.
        channel_max: most channels of a layer; 512 in config-f.
        learning_rate: of both Adam optimisers.
        r1: gamma, half of which is the factor of the R1 penalty (Mescheder et al. 2018).
        r1_interval: updates from one R1 penalty to the next.
        path_length: factor of the path-length penalty (section 3.2 of the paper).
        path_length_interval: updates from one path-length penalty to the next.
        style_mixing: share of images whose layers take two different styles.
        ema_decay: weight of the past in the averaged generator.
    """

    source = "gan-stylegan2"
    kind = "stylegan2"
    description: ClassVar[dict[str, str]] = {
        "family": "gan",
        "upsampling": "transposed convolution and FIR filter",
        "downsampling": "FIR filter and strided convolution",
        "normalisation": "demodulation",
        "non_linearity": "leaky relu",
        "skip": "image outputs",
        "loss": "non-saturating logistic with R1 and path length",
    }
    generator_arguments = ()
    generator: StyleGAN2Generator
    path_length_mean: Tensor

    def __init__(
        self,
        image_size: int = 32,
        image_channels: int = 3,
        latent_dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        learning_rate: float = 2e-3,
        r1: float = 10.0,
        r1_interval: int = 16,
        path_length: float = 2.0,
        path_length_interval: int = 8,
        style_mixing: float = 0.9,
        ema_decay: float = 0.999,
    ) -> None:
        channels = config_f_channels(image_size, channel_base, channel_max)
        generator = StyleGAN2Generator(
            image_size, latent_dim, latent_dim, mapping_layers, channels, image_channels, noise="random"
        )
        super().__init__(generator, ema_decay)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.discriminator = StyleGAN2Discriminator(channels, image_channels)
        self.register_buffer("path_length_mean", torch.zeros(()))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam without momentum, corrected for the steps that regularisation adds (appendix B of the paper)."""
        optimisers: list[torch.optim.Optimizer] = []
        for network, interval in ((self.discriminator, "r1_interval"), (self.generator, "path_length_interval")):
            share = self.hparams[interval] / (self.hparams[interval] + 1)
            rate, betas = self.hparams["learning_rate"] * share, (0.0, 0.99**share)
            optimisers.append(torch.optim.Adam(network.parameters(), lr=rate, betas=betas))
        return optimisers

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Update the discriminator, then the generator, each with its regulariser when its turn has come."""
        real = self._as_seen(batch["image"])
        if real.shape[-1] != self.generator.image_size:
            raise ValueError(
                f"found images of {real.shape[-1]} px, expected {self.generator.image_size}: set the model's "
                "image_size to that of the images, a power of two, or resize the images"
            )
        discriminator_optimiser, generator_optimiser = self.optimisers()
        update = self.updates

        with torch.no_grad():
            fake = self._images(self._styles(len(real)))
        loss = F.softplus(self.discriminator(fake)).mean() + F.softplus(-self.discriminator(real)).mean()
        self.step(discriminator_optimiser, loss)
        if update % self.hparams["r1_interval"] == 0:
            self.step(discriminator_optimiser, self._r1(real) * self.hparams["r1_interval"])

        styles = self._styles(len(real))
        self.discriminator.requires_grad_(False)
        generator_loss = F.softplus(-self.discriminator(self._images(styles))).mean()
        self.step(generator_optimiser, generator_loss)
        self.discriminator.requires_grad_(True)
        if update % self.hparams["path_length_interval"] == 0:
            penalty = self._path_length(max(1, len(real) // 2))
            self.step(generator_optimiser, penalty * self.hparams["path_length_interval"])

        with torch.no_grad():
            self.generator.mapping.mean.lerp_(styles.detach()[:, 0].mean(dim=0), 0.005)
        self.generator_updated()
        self.log_dict({"train/discriminator_loss": loss, "train/generator_loss": generator_loss}, prog_bar=True)

    def _styles(self, n: int) -> Tensor:
        """Styles in W+ `(n, styles, w_dim)` of random z; some images change to a second style at a random layer."""
        generator = self.generator
        z = torch.randn(2, n, generator.z_dim, device=self.device)
        count = generator.synthesis.styles
        first: Tensor = generator.styles(generator.mapping(z[0]))
        share = self.hparams["style_mixing"]
        if share == 0.0:
            return first
        second = generator.styles(generator.mapping(z[1]))
        change = torch.randint(1, count, (n, 1), device=self.device)
        change = torch.where(torch.rand(n, 1, device=self.device) < share, change, count)
        return torch.where((torch.arange(count, device=self.device) < change)[:, :, None], first, second)

    def _images(self, styles: Tensor) -> Tensor:
        return self._as_seen(self.generator.synthesize(styles))

    def _as_seen(self, images: Tensor) -> Tensor:
        """RGB images in [0, 1] as the discriminator takes them: in [-1, 1], one channel where they are grey."""
        return images[:, : self.hparams["image_channels"]] * 2.0 - 1.0

    def _r1(self, real: Tensor) -> Tensor:
        """Half of gamma times the squared gradient of the logits of real images, averaged over the batch."""
        real = real.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.discriminator(real).sum(), real, create_graph=True)
        penalty: Tensor = gradient.square().sum(dim=(1, 2, 3)).mean()
        self.log("train/r1", penalty)
        return penalty * float(self.hparams["r1"] / 2.0)

    def _path_length(self, n: int) -> Tensor:
        """Squared deviation of the lengths |J^T y| from their moving average (equation 4 of the paper)."""
        styles = self._styles(n)
        images = self._images(styles)
        direction = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
        (gradient,) = torch.autograd.grad((images * direction).sum(), styles, create_graph=True)
        lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
        self.path_length_mean.lerp_(lengths.detach().mean(), 0.01)
        self.log("train/path_length", self.path_length_mean)
        penalty: Tensor = (lengths - self.path_length_mean).square().mean() * self.hparams["path_length"]
        return penalty
