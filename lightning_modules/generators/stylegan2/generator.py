"""StyleGAN2 as a generator of this project: its latent is the style w, its images are in [0, 1]."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_modules.common.random_streams import standard_normal_latents
from lightning_modules.generators.stylegan2.layers import DEFAULT_FILTER
from lightning_modules.generators.stylegan2.networks import Mapping, Synthesis, check_noise, noise_maps


def config_f_channels(image_size: int, base: int = 32768, maximum: int = 512) -> list[int]:
    """Channels at 4, 8, ... `image_size` pixels: `min(base / size, maximum)`; config-f has base 32768.

    Raises:
        ValueError: the size is not a power of two in 4 .. 1024.
    """
    _check_size(image_size)
    return [max(1, min(base // 2**level, maximum)) for level in range(2, int(math.log2(image_size)) + 1)]


class StyleGAN2Generator(nn.Module):
    """The generator of StyleGAN2, config-f (Karras et al. 2020; Karras et al. 2020a for the adaptive release).

    Args:
        image_size: height and width, a power of two in 4 .. 1024.
        z_dim: length of z.
        w_dim: length of w, the latent of this generator.
        mapping_layers: layers of the mapping network.
        channels: channels at 4, 8, ... pixels; None for those of config-f.
        image_channels: 3, or 1 for grey images, which come out as three equal channels.
        mapping_lr_multiplier: learning rate of the mapping network relative to the others; part of what weights mean.
        clamp: limit of the magnitude of features (256 in checkpoints trained in half precision), or None.
        resample_filter: taps of the up-sampling filter.
        scale_before_demodulation: see `ModulatedConv`.
        noise_buffers: noise maps are stored with the weights; without them `noise: buffers` alone is refused.
        noise: which noise maps `synthesize` adds unless told otherwise: `fixed(SEED) | buffers | random | none`.
        truncation: psi of the truncation trick in `sample_latents`; 1 changes nothing, 0 gives the mean image.

    Attributes:
        arguments: what the constructor was given that belongs to the architecture, as plain values.

    Raises:
        ValueError: arguments that do not go together.
    """

    def __init__(
        self,
        image_size: int,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        channels: Sequence[int] | None = None,
        image_channels: int = 3,
        mapping_lr_multiplier: float = 0.01,
        clamp: float | None = None,
        resample_filter: Sequence[float] = DEFAULT_FILTER,
        scale_before_demodulation: bool = True,
        noise_buffers: bool = True,
        noise: str = "fixed(0)",
        truncation: float = 1.0,
    ) -> None:
        super().__init__()
        _check_size(image_size)
        channels = config_f_channels(image_size) if channels is None else list(channels)
        if 2 ** (len(channels) + 1) != image_size:
            raise ValueError(
                f"found {len(channels)} channel numbers for {image_size} px, expected "
                f"{int(math.log2(image_size)) - 1}: one for each of 4, 8, 16 ... pixels"
            )
        if image_channels not in (1, 3):
            raise ValueError(f"found {image_channels} image channels, expected 3 (RGB) or 1 (grey)")
        self.arguments: dict[str, Any] = {
            "image_size": image_size,
            "z_dim": z_dim,
            "w_dim": w_dim,
            "mapping_layers": mapping_layers,
            "channels": channels,
            "image_channels": image_channels,
            "mapping_lr_multiplier": mapping_lr_multiplier,
            "clamp": clamp,
            "resample_filter": list(resample_filter),
            "scale_before_demodulation": scale_before_demodulation,
        }
        if not noise_buffers:  # not written where it is as in files that know no such argument
            self.arguments["noise_buffers"] = False
        self.noise_buffers = noise_buffers
        self.image_size = image_size
        self.z_dim = z_dim
        self.latent_dim = w_dim
        self.mapping = Mapping(z_dim, w_dim, mapping_layers, mapping_lr_multiplier)
        self.synthesis = Synthesis(
            w_dim, channels, image_channels, clamp, resample_filter, scale_before_demodulation, noise_buffers
        )
        self.configure(noise=noise, truncation=truncation)

    @property
    def sampling(self) -> dict[str, Any]:
        """How latents are sampled, as `configure` takes it."""
        return {"truncation": self.truncation}

    @property
    def reproducible(self) -> bool:
        """Whether equal latents give equal images: not with noise drawn anew for each image."""
        return self.noise != "random"

    def configure(self, **options: Any) -> Self:
        """Set how images are sampled: `noise` and `truncation`, as in the constructor.

        Raises:
            ValueError: an unknown option or value.
        """
        unknown = sorted(set(options) - {"noise", "truncation"})
        if unknown:
            near = difflib.get_close_matches(unknown[0], ["noise", "truncation"], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"found option {unknown[0]!r} for StyleGAN2, expected noise or truncation{hint}")
        if "noise" in options:
            self.noise = self._checked_noise(str(options["noise"]))
        if "truncation" in options:
            self.truncation = _checked_truncation(options["truncation"])
        return self

    def sample_latents(self, n: int, seed: int, start: int = 0) -> Tensor:
        """Return styles w `(n, w_dim)` of z ~ N(0, I), truncated; row i depends on `(seed, start + i)` alone."""
        z = standard_normal_latents(n, self.z_dim, seed, start).to(self.mapping.mean)
        return self.truncate(self.mapping(z), self.truncation)

    def truncate(self, w: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
        """Draw latents towards their mean: `mean + psi (w - mean)` (Karras et al. 2019, section B).

        Args:
            w: `(n, w_dim)` in W, or `(n, styles, w_dim)` in W+.
            psi: 1 changes nothing, 0 gives the mean.
            cutoff: truncate only the first so many styles; the result is in W+ then. None truncates all.
        """
        if psi == 1.0:
            return w
        if cutoff is None:
            return self.mapping.mean.lerp(w, psi)
        styles = self.styles(w)
        return torch.cat([self.mapping.mean.lerp(styles[:, :cutoff], psi), styles[:, cutoff:]], dim=1)

    def styles(self, latents: Tensor) -> Tensor:
        """Bring latents of W `(n, w_dim)` or W+ `(n, styles, w_dim)` to W+.

        Raises:
            ValueError: another shape.
        """
        if latents.ndim == 2 and latents.shape[1] == self.latent_dim:
            return latents[:, None].expand(-1, self.synthesis.styles, -1)
        if latents.ndim == 3 and latents.shape[1:] == (self.synthesis.styles, self.latent_dim):
            return latents
        raise ValueError(
            f"found latents of shape {tuple(latents.shape)}, expected (n, {self.latent_dim}) in W or "
            f"(n, {self.synthesis.styles}, {self.latent_dim}) in W+"
        )

    def synthesize(self, latents: Tensor, noise: str | Sequence[Tensor | None] | None = None) -> Tensor:
        """Map latents in W or W+ to RGB images `(n, 3, H, W)`, about [0, 1], not clamped, differentiable.

        Args:
            latents: `(n, w_dim)`, or `(n, styles, w_dim)`.
            noise: a noise mode; or a map `(1 or n, 1, r, r)` for each layer; None for the generator's own mode.

        Raises:
            ValueError: latents of another shape, an unknown noise mode, or `buffers` where none are stored.
        """
        styles = self.styles(latents)
        maps = (
            noise_maps(
                self._checked_noise(self.noise if noise is None else noise), self.synthesis.noise_buffers, len(styles)
            )
            if noise is None or isinstance(noise, str)
            else list(noise)
        )
        images: Tensor = self.synthesis(styles, maps)
        return (images.expand(-1, 3, -1, -1) + 1.0) / 2.0

    def _checked_noise(self, noise: str) -> str:
        if check_noise(noise) == "buffers" and not self.noise_buffers:
            raise ValueError(
                "found noise 'buffers' for a StyleGAN2 whose file holds no noise maps, expected 'fixed(SEED)', "
                "'random' or 'none'; or give a checkpoint that holds the maps"
            )
        return noise

    def freeze(self) -> Self:
        """Switch to inference for good: evaluation mode, no parameter takes a gradient."""
        return self.eval().requires_grad_(False)


def _checked_truncation(value: Any) -> float:
    try:
        psi = float(value)
    except (TypeError, ValueError):
        psi = math.nan
    if not 0.0 <= psi <= 2.0:
        raise ValueError(
            f"found truncation {value!r}, expected a number from 0 (the mean image) to 1 (none), at most 2"
        )
    return psi


def _check_size(image_size: int) -> None:
    if image_size not in [2**level for level in range(2, 11)]:
        raise ValueError(f"found image size {image_size}, expected a power of two in 4 .. 1024")
