"""The network of the diffusion: a U-Net on latents, of images alone or of images that follow a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def make_denoiser(
    kind: str, config: dict[str, Any], prompts: Sequence[int] | None = None, heads: int | None = None
) -> ImageDenoiser | TextDenoiser:
    """Build the U-Net: `image` for diffusers' UNet2DModel, `text` for its UNet2DConditionModel.

    Raises:
        ValueError: another kind, or prompts where they do not belong.
    """
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    if kind == "image" and prompts is None:
        return ImageDenoiser(config, heads)
    if kind == "text" and heads is None and prompts is not None and len(prompts) == 3:
        return TextDenoiser(config, prompts)
    raise ValueError(
        f"found a U-Net of kind {kind!r} with prompts={prompts} and heads={heads}, expected kind 'image' without "
        "prompts or kind 'text' with prompts=[number, tokens, width] alone"
    )


class ImageDenoiser(nn.Module):
    """An unconditional U-Net.

    Args:
        config: arguments of diffusers' UNet2DModel.
        heads: number of attention heads at every resolution, where that and not their width is what the resolutions
            share; None leaves it to the config.
    """

    def __init__(self, config: dict[str, Any], heads: int | None = None) -> None:
        from diffusers import UNet2DModel
        from diffusers.models.attention_processor import Attention

        super().__init__()
        model: Any = UNet2DModel(**config)  # type: ignore[no-untyped-call]
        self.model = model
        self.channels = int(model.config.in_channels)
        for layer in self.modules():
            if heads is not None and isinstance(layer, Attention):
                if layer.inner_dim % heads:
                    raise ValueError(f"found {heads} heads for {layer.inner_dim} channels, expected a divisor of these")
                layer.heads, layer.scale = heads, (layer.inner_dim // heads) ** -0.5

    def check_guidance(self, guidance: float) -> None:
        """Refuse guidance: there is nothing to be guided by.

        Raises:
            ValueError: a scale other than 1.
        """
        if guidance != 1.0:
            raise ValueError(f"found guidance={guidance}, expected 1: this model follows no prompt")

    def forward(self, x: Tensor, time: Tensor, index: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Predict noise or velocity `(n, c, h, w)` from noisy latents of that shape at times `()` or `(n,)`."""
        output: Tensor = self.model(x, time).sample
        return output


class TextDenoiser(nn.Module):
    """A U-Net that follows one of the prompts it carries, sample i the prompt `i mod k`.

    Args:
        config: arguments of diffusers' UNet2DConditionModel.
        prompts: number k of prompts, tokens of each, width of a token.
    """

    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor

    def __init__(self, config: dict[str, Any], prompts: Sequence[int]) -> None:
        from diffusers import UNet2DConditionModel

        super().__init__()
        number, tokens, width = prompts
        model: Any = UNet2DConditionModel(**config)  # type: ignore[no-untyped-call]
        self.model = model
        self.channels = int(model.config.in_channels)
        self.register_buffer("prompt_embeds", torch.zeros(number, tokens, width))
        self.register_buffer("negative_prompt_embeds", torch.zeros(1, tokens, width))

    def check_guidance(self, guidance: float) -> None:
        """Refuse a negative scale.

        Raises:
            ValueError: a scale below 0.
        """
        if guidance < 0.0:
            raise ValueError(f"found guidance={guidance}, expected at least 0; 1 is none, 7.5 is usual")

    def forward(self, x: Tensor, time: Tensor, index: Tensor, guidance: float = 1.0) -> Tensor:
        """Predict with classifier-free guidance (Ho & Salimans 2022, Eq. 6, with scale = 1 + w).

        Args:
            x: noisy latents `(n, c, h, w)`.
            time: `()`.
            index: int64 `(n,)`, numbers of the samples.
            guidance: weight of the prompt; 1 follows the prompt without guidance, 0 ignores it.

        Returns:
            Noise or velocity `(n, c, h, w)`.
        """
        prompt = self.prompt_embeds[index % len(self.prompt_embeds)]
        if guidance == 1.0:
            output: Tensor = self.model(x, time, encoder_hidden_states=prompt).sample
            return output
        both = torch.cat([self.negative_prompt_embeds.expand_as(prompt), prompt])
        empty, guided = self.model(torch.cat([x, x]), time, encoder_hidden_states=both).sample.chunk(2)
        extrapolated: Tensor = empty + guidance * (guided - empty)
        return extrapolated
