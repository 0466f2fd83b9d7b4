"""The network of the diffusion: a U-Net on latents, of images alone or of images that follow a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def make_denoiser(
    kind: str, config: dict[str, Any], prompts: Sequence[int] | None = None, heads: int | None = None
) -> ImageDenoiser | TextDenoiser:
    """Build the U-Net: `image` for diffusers' UNet2DModel, `text` for its UNet2DConditionModel."""
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
        """Refuse guidance other than 1: there is nothing to be guided by."""
        if guidance != 1.0:
            raise ValueError(f"found guidance={guidance}, expected 1: this model follows no prompt")

    def forward(self, x: Tensor, time: Tensor, index: Tensor | None = None, guidance: float = 1.0) -> Tensor:
        """Predict noise or velocity `(n, c, h, w)` from noisy latents of that shape at times `()` or `(n,)`."""
        output: Tensor = self.model(x, time).sample
        return output


class TextDenoiser(nn.Module):
    """A U-Net (diffusers' UNet2DConditionModel) that follows the prompts it carries, sample i the prompt `i mod k`.

    Of `prompts` are given the number k, the tokens of each, and the width of a token.
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
        """Refuse a negative scale."""
        if guidance < 0.0:
            raise ValueError(f"found guidance={guidance}, expected at least 0; 1 is none, 7.5 is usual")

    def forward(self, x: Tensor, time: Tensor, index: Tensor, guidance: float = 1.0) -> Tensor:
        """Predict noise or velocity with classifier-free guidance (Ho & Salimans 2022, Eq. 6, with scale = 1 + w).

        Args:
            x: noisy latents `(n, c, h, w)`, the shape of the result.
            time: `()`.
            index: int64 `(n,)`, numbers of the samples.
            guidance: weight of the prompt; 1 follows the prompt without guidance, 0 ignores it.
        """
        prompt = self.prompt_embeds[index % len(self.prompt_embeds)]
        if guidance == 1.0:
            output: Tensor = self.model(x, time, encoder_hidden_states=prompt).sample
            return output
        both = torch.cat([self.negative_prompt_embeds.expand_as(prompt), prompt])
        empty, guided = self.model(torch.cat([x, x]), time, encoder_hidden_states=both).sample.chunk(2)
        extrapolated: Tensor = empty + guidance * (guided - empty)
        return extrapolated


PREDICTIONS = ("epsilon", "sample", "v_prediction")


def make_scheduler(config: dict[str, Any]) -> Any:
    """Build diffusers' DDIMScheduler from the config of any scheduler of the DDPM family, without what it lacks."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(config)  # type: ignore[no-untyped-call]


def check_sampling(scheduler: Any, steps: int, eta: float) -> None:
    """Refuse `steps` not in 1 .. T, `eta` not in [0, 1], and a network that predicts something unknown."""
    if scheduler.config.prediction_type not in PREDICTIONS:
        raise ValueError(
            f"found prediction_type {scheduler.config.prediction_type!r}, expected one of {', '.join(PREDICTIONS)}"
        )
    levels = scheduler.config.num_train_timesteps
    if not 1 <= steps <= levels:
        raise ValueError(f"found steps={steps}, expected 1 .. {levels}, the noise levels the network was trained with")
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"found eta={eta}, expected 0 (DDIM) .. 1 (DDPM)")


def ddim_chain(
    scheduler_config: dict[str, Any], predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int, eta: float
) -> Tensor:
    """Denoise from pure noise (Song et al. 2021, Eq. 12); eta = 1 with all T steps is DDPM's ancestral sampling.

    Args:
        scheduler_config: noise levels and what the network predicts; see `make_scheduler`.
        predict: the network's output for noisy latents `(n, c, h, w)` at an int64 time of shape `()`.
        noise: N(0, I): the start `noise[:, 0]`, and with eta > 0 the noise of step i `noise[:, 1 + i]`;
            `(n, 1 or 1 + steps, c, h, w)`.
        steps: number of steps.
        eta: share of DDPM's noise that is added at each step.

    Returns:
        Denoised latents `(n, c, h, w)`.
    """
    scheduler = make_scheduler(scheduler_config)
    check_sampling(scheduler, steps, eta)
    scheduler.set_timesteps(steps, device=noise.device)
    if scheduler.timesteps[0] >= scheduler.config.num_train_timesteps:  # all T levels and an offset: one too far
        scheduler.timesteps = scheduler.timesteps - 1
    x: Tensor = noise[:, 0] * scheduler.init_noise_sigma
    for i, time in enumerate(scheduler.timesteps):
        added = noise[:, 1 + i] if eta > 0.0 else None
        x = scheduler.step(predict(x, time), time, x, eta=eta, variance_noise=added).prev_sample
    return x
