"""Networks that read a key by the generator's own encoder, and correct an answer by the image that it makes.

What an answer leaves of an image says how to mend it: the encoder's latents of the image less those of the image that
the answer makes show, cell by cell, where the answer errs. One pass learns to do so, a few times at most (as iterative
encoders do for StyleGAN: Alaluf et al., ICCV 2021, section 3). A search by least squares does it exactly, at the price
of hundreds of syntheses.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.fingerprints.decoders.key_network import CalibratedNetwork
from lightning_modules.fingerprints.fingerprint import Fingerprint

KEY_LOGITS = 3.0
"""Half the distance, in logits, between a bit's two values as an untrained reading of latents states them."""
WIDTH, BLOCKS, GROUPS = 128, 3, 8
"""Channels, residual blocks and groups of the normalisation of a correction; they lie on the grid of the latent."""
FAINT = 1e-6
"""Added to squared residuals: a deviation of 1/1000, a quarter of a grey level."""


class LatentSpace(nn.Module):
    """Latents as a fingerprint sees them: the key's coordinates, then those outside it, in deviations.

    The fingerprint is not part of a network's state: `take` gives it, once it is fitted or read.
    """

    mean: Tensor
    axes: Tensor
    scale: Tensor

    def __init__(self, bits: int, axes: int, latent_dim: int) -> None:
        super().__init__()
        self.bits, self.copies = bits, 1
        self.register_buffer("mean", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("axes", torch.zeros(bits + axes, latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(bits + axes), persistent=False)

    def take(self, fingerprint: Fingerprint) -> None:
        """Set mean, axes and the size of a step along each; a bit's two values lie at -1 and 1."""
        self.copies = len(fingerprint.key_axes)
        key = fingerprint.key_axes.sum(dim=0) / self.copies
        half = fingerprint.sigma / 2.0
        self.mean.copy_(fingerprint.mean + fingerprint.offset(fingerprint.key_axes.new_full((self.bits,), 0.5)))
        self.axes.copy_(torch.cat([key, fingerprint.other_axes[: len(self.axes) - self.bits]]))
        deviation = fingerprint.other_deviation[: len(self.axes) - self.bits].clamp_min(1e-6)
        self.scale.copy_(torch.cat([deviation.new_full((self.bits,), half), deviation]))

    def latents(self, key: Tensor, alpha: Tensor) -> Tensor:
        """Latents `(n, d)` of key values in [-1, 1] `(n, m)` and alpha in deviations `(n, k)`."""
        along = torch.cat([self.copies * key, alpha], dim=1) * self.scale
        return self.mean + along @ self.axes

    def readings(self) -> Tensor:
        """Weights `(m + k, d)` that read logits and alpha off latents less the mean."""
        weights = self.axes / self.scale[:, None]
        weights[: self.bits] *= KEY_LOGITS
        return weights


class Encoder(nn.Module):
    """A copy of the encoder of a generator's first stage, to be trained: images in [0, 1] to latents `(n, c, h, w)`."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        stage = generator.first_stage
        self.encoder = copy.deepcopy(stage.model.encoder)
        projection = stage.model.quant_conv  # an AutoencoderKL may have none
        self.projection = nn.Identity() if projection is None else copy.deepcopy(projection)
        self.train().requires_grad_(True)
        self.channels, self.scale = int(stage.channels), float(generator.scale_factor)

    def forward(self, images: Tensor) -> Tensor:
        """The mean of a Gaussian stage, the latents before quantisation of a `vq` one."""
        latents: Tensor = self.projection(self.encoder(images * 2.0 - 1.0))
        return latents[:, : self.channels] * self.scale


class EncoderNetwork(CalibratedNetwork):
    """Reads key and latent linearly off the latents of the generator's encoder, which goes on learning.

    Args:
        bits: length m of a key.
        axes: number k of coordinates outside it.
        generator: a latent diffusion model.
    """

    def __init__(self, bits: int, axes: int, generator: Any) -> None:
        super().__init__(bits, axes)
        self.encoder = Encoder(generator)
        self.space = LatentSpace(bits, axes, generator.latent_dim)
        self.heads = nn.Linear(generator.latent_dim, bits + axes)

    def take_fingerprint(self, fingerprint: Fingerprint, anew: bool) -> None:
        """Know where keys lie; `anew` begins with what the axes read off the encoder's latents."""
        self.space.take(fingerprint)
        if anew and not self.begun:
            with torch.no_grad():
                self.heads.weight.copy_(self.space.readings())
                self.heads.bias.copy_(-self.heads.weight @ self.space.mean)

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `CalibratedNetwork`."""
        output = self.heads(self.encoder(images).flatten(1))
        return output[:, : self.bits], output[:, self.bits :]


class CorrectedNetwork(CalibratedNetwork):
    """Any network's answer, corrected by what the image that it makes leaves of the image that is read.

    Args:
        start: gives the first answer.
        corrections: how often it is corrected.
        generator: a latent diffusion model; it makes the images, and its encoder is where learning begins.
        frozen: leave the start as it is.
    """

    def __init__(self, start: CalibratedNetwork, corrections: int, generator: Any, frozen: bool = False) -> None:
        super().__init__(start.bits, start.axes)
        self.start, self.frozen = start, frozen
        self.start.requires_grad_(not frozen)
        self._generator = (generator,)  # in a tuple, so that no checkpoint holds it
        self.shape = tuple(generator.latent_shape)
        self.space = LatentSpace(start.bits, start.axes, generator.latent_dim)
        self.seen, self.made = Encoder(generator), Encoder(generator)
        self.cell = generator.image_size // self.shape[-1]  # pixels on a side of what a vector of the latent stands for
        channels = 3 * self.shape[0] + 2 + 2 * 3 * self.cell**2
        self.steps = nn.ModuleList(_Correction(channels, self.shape[0]) for _ in range(corrections))
        self.heads = nn.Linear(generator.latent_dim, self.bits + self.axes, bias=False)

    def train(self, mode: bool = True) -> CorrectedNetwork:
        """A frozen start stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.start.eval()
        return self

    @property
    def quicker(self) -> CalibratedNetwork:
        """What is corrected, where it was trained by itself and calibrated; see `CalibratedNetwork`.

        An encoder that learned together with the corrections is as sure of images that were moved: of 20 cropped images
        of `ldm64_emoji` 19 name their user if all readings are corrected, none if it chooses which.
        """
        return self.start if self.frozen else self

    def take_fingerprint(self, fingerprint: Fingerprint, anew: bool) -> None:
        """Know where keys lie; `anew` begins with what the axes read off a correction."""
        self.start.take_fingerprint(fingerprint, anew and not self.begun)
        self.space.take(fingerprint)
        if anew and not self.begun:
            with torch.no_grad():
                self.heads.weight.copy_(self.space.readings())

    def answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `CalibratedNetwork`.

        In training no gradient passes through the images that are made: a start learns by its own answer. In evaluation
        it does, so that an attack by gradients meets the whole network.
        """
        through = torch.is_grad_enabled() and not self.training
        logits, alpha = self.start.answer(images)
        with torch.set_grad_enabled(through):
            first = self.space.latents(2.0 * torch.sigmoid(logits) - 1.0, alpha).view(-1, *self.shape)
        seen, latents = self.seen(images), first
        for step in self.steps:
            with torch.set_grad_enabled(through):
                made = self._generator[0].synthesize_codes(latents.flatten(1)).clamp(0.0, 1.0)
            difference = seen - self.made(made)
            gate, more = step([difference, latents, seen, *self._cells(images, made)])
            latents = latents + torch.sigmoid(gate) * difference + more
        mended = self.heads((latents - first).flatten(1))
        return logits + mended[:, : self.bits], alpha + mended[:, self.bits :]

    def _cells(self, images: Tensor, made: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What belongs to each vector of the latent, `(n, ., h, w)`: pixels, what is left of them, how much that is.

        The last is the logarithm of the residual's deviation, in the cell and in the image. What is left is divided by
        the image's.
        """
        left = F.pixel_unshuffle(images - made, self.cell)
        squares = left.square().mean(dim=1, keepdim=True)
        whole = squares.mean(dim=(2, 3), keepdim=True).expand_as(squares)
        size = 0.5 * (torch.cat([squares, whole], dim=1) + FAINT).log() + 3.0
        return F.pixel_unshuffle(images, self.cell) - 0.5, left / (whole + FAINT).sqrt(), size


class _Correction(nn.Module):
    """How much of the difference, and what beside, goes into the answer; half of it and nothing at first."""

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(GROUPS, WIDTH),
                nn.SiLU(),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
                nn.GroupNorm(GROUPS, WIDTH),
                nn.SiLU(),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            )
            for _ in range(BLOCKS)
        )
        self.last = nn.Conv2d(WIDTH, 2 * latent_channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of the share of the difference, and what is added, both `(n, c, h, w)`."""
        hidden = self.first(torch.cat(parts, dim=1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        gate, more = self.last(F.silu(hidden)).chunk(2, dim=1)
        return gate, more
