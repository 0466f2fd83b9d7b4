"""The DDIM sampler (Song et al. 2021) with noise that belongs to each sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

PREDICTIONS = ("epsilon", "sample", "v_prediction")


def make_scheduler(config: dict[str, Any]) -> Any:
    """Build diffusers' DDIMScheduler from the config of any scheduler of the DDPM family.

    Args:
        config: arguments of DDIMScheduler; those of its relatives that it lacks are left aside.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(config)  # type: ignore[no-untyped-call]


def check_sampling(scheduler: Any, steps: int, eta: float) -> None:
    """Refuse numbers that the sampler cannot use.

    Raises:
        ValueError: `steps` not in 1 .. T, `eta` not in [0, 1], or a network that predicts something unknown.
    """
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
