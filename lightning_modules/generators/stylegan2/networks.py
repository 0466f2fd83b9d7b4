"""The synthesis network of StyleGAN2 with skip outputs (Karras et al. 2020, figures 2 and 7)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.common.random_streams import standard_normal_latents
from lightning_modules.generators.stylegan2.layers import (
    DEFAULT_FILTER,
    EPSILON,
    EqualisedLinear,
    ModulatedConv,
    activate,
    activate_modulated,
    normalised_filter,
    upsample,
)

FIRST_STREAM = 2**63
"""Index of the first noise map's stream: out of reach of any sample's index, so that no map repeats a latent."""

_FIXED = re.compile(r"fixed\((\d+)\)")


def check_noise(noise: str) -> str:
    """Return a noise mode if it is `fixed(SEED)`, `buffers`, `random` or `none`."""
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


class Mapping(nn.Module):
    """Normalise z to unit second moment, then `layers` (8 in config-f) linear layers with leaky ReLU."""

    mean: Tensor

    def __init__(self, z_dim: int, w_dim: int, layers: int = 8, lr_multiplier: float = 0.01) -> None:
        super().__init__()
        sizes = [z_dim] + [w_dim] * layers
        self.layers = nn.ModuleList(
            EqualisedLinear(a, b, lr_multiplier=lr_multiplier) for a, b in itertools.pairwise(sizes)
        )
        self.register_buffer("mean", torch.zeros(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        """Map latents `(n, z_dim)` to styles `(n, w_dim)`."""
        x = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + EPSILON)
        for layer in self.layers:
            x = activate(layer(x))
        return x


class StyledConv(nn.Module):
    """Modulated 3 x 3 convolution, noise, bias, leaky ReLU.

    The result has `size` rows and columns, twice as many as the input if `up`, and a magnitude of at most `clamp`.
    Without `noise_buffers` the noise map is no part of the state dict, and zeros stand for its size.
    """

    noise_map: Tensor

    def __init__(
        self,
        w_dim: int,
        inputs: int,
        outputs: int,
        size: int,
        up: bool,
        clamp: float | None,
        scale_before_demodulation: bool,
        noise_buffers: bool = True,
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(w_dim, inputs, outputs, 3, up, scale_before_demodulation)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        stored = torch.randn(1, 1, size, size) if noise_buffers else torch.zeros(1, 1, size, size)
        self.register_buffer("noise_map", stored, persistent=noise_buffers)
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, kernel: Tensor) -> Tensor:
        """Map features `(n, inputs, h, w)` to `(n, outputs, size, size)`; `noise` is `(1 or n, 1, size, size)`."""
        x, factor = self.conv(x, w, kernel)
        offset = self.bias[:, None, None]
        offset = offset if noise is None else offset + noise * self.noise_strength
        return activate_modulated(x, factor, offset, self.clamp)


class ToImage(nn.Module):
    """Modulated 1 x 1 convolution without demodulation: features to image channels (`tRGB` of the paper)."""

    def __init__(self, w_dim: int, inputs: int, outputs: int, clamp: float | None) -> None:
        super().__init__()
        self.conv = ModulatedConv(w_dim, inputs, outputs, 1)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.clamp = clamp

    def forward(self, x: Tensor, w: Tensor, kernel: Tensor) -> Tensor:
        """Map features `(n, inputs, h, w)` to `(n, outputs, h, w)`."""
        x = self.conv(x, w, kernel)[0] + self.bias[:, None, None]
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class Synthesis(nn.Module):
    """From a learned 4 x 4 constant to an image, two styled convolutions for each doubling.

    Args:
        w_dim: length of a style latent.
        channels: channels at 4, 8, 16 ... pixels; their number gives the image size.
        image_channels: channels of the image.
        clamp: limit of the magnitude of features, or None.
        resample_filter: taps of the up-sampling filter.
        scale_before_demodulation: see `ModulatedConv`.
        noise_buffers: see `StyledConv`.
    """

    kernel: Tensor

    def __init__(
        self,
        w_dim: int,
        channels: Sequence[int],
        image_channels: int = 3,
        clamp: float | None = None,
        resample_filter: Sequence[float] = DEFAULT_FILTER,
        scale_before_demodulation: bool = True,
        noise_buffers: bool = True,
    ) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.register_buffer("kernel", normalised_filter(resample_filter))
        settings = (clamp, scale_before_demodulation, noise_buffers)
        convs = [StyledConv(w_dim, channels[0], channels[0], 4, False, *settings)]
        for level, (a, b) in enumerate(itertools.pairwise(channels), start=3):
            convs.append(StyledConv(w_dim, a, b, 2**level, True, *settings))
            convs.append(StyledConv(w_dim, b, b, 2**level, False, *settings))
        self.convs = nn.ModuleList(convs)
        self.to_images = nn.ModuleList(ToImage(w_dim, c, image_channels, clamp) for c in channels)

    @property
    def styles(self) -> int:
        """Number of style inputs: one for each convolution and one for the last image layer."""
        return len(self.convs) + 1

    @property
    def noise_buffers(self) -> list[Tensor]:
        """The maps stored with the weights, `(1, 1, r, r)` for each convolution; zeros where none are stored."""
        return [conv.noise_map for conv in self.convs]  # type: ignore[misc]

    def forward(self, w: Tensor, noise: Sequence[Tensor | None]) -> Tensor:
        """Map styles `(n, styles, w_dim)` to images `(n, image_channels, size, size)`, about [-1, 1].

        Each image layer takes the style after its convolution's, which is that of the next convolution.
        """
        constant = self.constant.expand(len(w), -1, -1, -1)
        if constant.device.type == "cpu":  # all features follow; transposed convolutions are 2 to 5 times faster so
            constant = constant.contiguous(memory_format=torch.channels_last)
        x = self.convs[0](constant, w[:, 0], noise[0], self.kernel)
        image: Tensor = self.to_images[0](x, w[:, 1], self.kernel)
        for level, to_image in enumerate(self.to_images[1:], start=1):
            for layer in (2 * level - 1, 2 * level):
                x = self.convs[layer](x, w[:, layer], noise[layer], self.kernel)
            image = upsample(image, self.kernel) + to_image(x, w[:, 2 * level + 1], self.kernel)
        return image
