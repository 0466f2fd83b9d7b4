"""Reads the checkpoints of CompVis' latent-diffusion: `model.ckpt` with `config.yaml` beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lightning_modules.common.files import file_hash
from lightning_modules.common.weights import WRAPPERS, without_prefixes
from lightning_modules.generators.checkpoints.safe_pickle import read_tensor_pickle
from lightning_modules.generators.checkpoints.stored import CheckpointError, StoredGenerator
from lightning_modules.generators.latent_diffusion.compvis_first_stage import first_stage_arguments, first_stage_renames
from lightning_modules.generators.latent_diffusion.compvis_unet import unet_arguments, unet_renames
from lightning_modules.generators.latent_diffusion.denoiser import make_scheduler
from lightning_modules.generators.latent_diffusion.generator import LatentDiffusionGenerator
from lightning_modules.generators.latent_diffusion.renaming import rename

UNET = "model.diffusion_model."
FIRST_STAGE = "first_stage_model."
AVERAGED = "model_ema."
LEFT_ASIDE = {
    "first_stage_model.loss.": "loss networks of the first stage",
    "first_stage_model.model_ema.": "averaged first stage, which the published models were not trained on",
    "first_stage_model.quantize.ema_": "running sums that the codebook was trained with",
    "first_stage_model.quantize.cluster_size": "running sums that the codebook was trained with",
    "first_stage_model.quantize.embed_avg": "running sums that the codebook was trained with",
    "first_stage_model.colorize": "colours for showing label maps",
    "cond_stage_model.": "conditioning that an unconditional model does not use",
    "scale_factor": "a scale that the configuration does not ask for",
    "ddim_": "follows from the noise levels and the sampler's steps",
    "logvar": "loss weights",
    "lvlb_weights": "loss weights",
    **dict.fromkeys(("loss.", "lpips", "perceptual_loss.", "discriminator."), "loss networks"),
}
"""Beginnings of the names of tensors that are not needed, and what they are."""
BOOKKEEPING = ("decay", "num_updates", "n_averaged", "initted", "step")
"""Last parts of the names of numbers that an average of weights counts with."""


def read_compvis(path: Path, config: str | Path | None = None) -> StoredGenerator:
    """Read an unconditional latent diffusion checkpoint; averaged (EMA) weights of the U-Net are preferred.

    Optimiser state, callbacks and whatever else lies in the file are left alone; nothing in it is executed.

    Args:
        path: `model.ckpt`, or its folder.
        config: the YAML file; None for `config.yaml`, or the only YAML file, in the same folder.

    Raises:
        CheckpointError: what is wrong with the file or the configuration.
    """
    path = path / "model.ckpt" if path.is_dir() else path
    params = model_params(config_beside(path) if config is None else Path(config))
    arguments = generator_arguments(params)
    tensors, prefixes = _state_dict(path)
    report, first, unet = [*prefixes], params["first_stage_config"], params["unet_config"]["params"]
    arguments["scale_factor"] = _scale_factor(params, tensors)
    try:
        with torch.device("meta"):  # shapes alone
            network = LatentDiffusionGenerator(**arguments)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"found a configuration that makes no network: {error}") from error

    stage_renames = list(first_stage_renames(first["target"], first["params"], FIRST_STAGE))
    stage = rename(tensors, stage_renames, network.first_stage.model)
    report.append(f"first stage: {len(stage_renames)} tensors of {FIRST_STAGE}*")

    unet_names = list(unet_renames(unet, UNET))
    averaged = any(name.startswith(f"{AVERAGED}diffusion_model") for name in tensors)
    denoiser = rename(tensors, unet_names, network.unet.model, _averaged_name if averaged else str)
    kept = "model_ema.* (averaged; model.* left aside)" if averaged else f"{UNET}*"
    report.append(f"U-Net: {len(unet_names)} tensors of {kept}")

    used = {one.source for one in (*stage_renames, *unet_names)}
    used |= {_averaged_name(one.source) for one in unet_names} if averaged else set()
    measured = bool(params.get("scale_by_std", False))
    used |= {"scale_factor"} if measured else set()
    place = "tensor scale_factor" if measured else "the configuration"
    report.append(f"scale of the latents: {arguments['scale_factor']:.6g}, from {place}")
    report += _account_for_the_rest(tensors, used, arguments["scheduler"])
    return StoredGenerator(
        kind="latent_diffusion",
        arguments=arguments,
        tensors={f"first_stage.model.{k}": v for k, v in stage.items()}
        | {f"unet.model.{k}": v for k, v in denoiser.items()},
        origin={"format": "compvis-latent-diffusion", "file": path.name, "sha256": file_hash(path)},
        report=tuple(report),
    )


def _state_dict(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors without shared prefixes, averaged ones too, whose names have no dots; and what was taken off."""
    content = read_tensor_pickle(path)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"found no state_dict in {path}, expected a CompVis checkpoint")
    tensors, lines = without_prefixes({str(name): value for name, value in state.items() if isinstance(value, Tensor)})
    if not any(name.startswith(UNET) for name in tensors):
        raise CheckpointError(f"found no tensor {UNET}* in {path}, expected a CompVis latent diffusion checkpoint")
    for wrapper in WRAPPERS:  # those around the U-Net have become part of the names of its averages
        begin = f"{AVERAGED}diffusion_model{wrapper}"
        averages = [name for name in tensors if name.startswith(f"{AVERAGED}diffusion_model")]
        if averages and all(name.startswith(begin) for name in averages):
            for name in averages:
                tensors[f"{AVERAGED}diffusion_model{name[len(begin) :]}"] = tensors.pop(name)
    return tensors, lines


def _averaged_name(name: str) -> str:
    """How LitEma writes a parameter of the model: without `model.` and without dots."""
    return AVERAGED + name.removeprefix("model.").replace(".", "")


def _scale_factor(params: dict[str, Any], tensors: dict[str, Tensor]) -> float:
    if not params.get("scale_by_std", False):
        return float(params.get("scale_factor", 1.0))
    if "scale_factor" not in tensors:
        raise CheckpointError("found no tensor 'scale_factor', expected the measured one: the config has scale_by_std")
    scale = float(tensors["scale_factor"])
    if not (math.isfinite(scale) and scale > 0.0):
        raise CheckpointError(f"found scale_factor {scale}, expected a positive number")
    return scale


def _account_for_the_rest(tensors: dict[str, Tensor], used: set[str], scheduler: dict[str, Any]) -> list[str]:
    """Check the noise levels that the file holds, name what is left aside, refuse what is unknown."""
    rest = {name: tensor for name, tensor in tensors.items() if name not in used}
    lines = []
    levels = rest.pop("alphas_cumprod", None)
    if levels is not None:
        expected = make_scheduler(scheduler).alphas_cumprod
        if levels.shape != expected.shape or not torch.allclose(levels.float(), expected, rtol=1e-3, atol=1e-6):
            raise CheckpointError("found noise levels (alphas_cumprod) that are not those of the configuration")
        lines.append("noise levels: alphas_cumprod agrees with the configuration")
    follow = [
        name for name in rest if "." not in name and tuple(rest[name].shape) == (scheduler["num_train_timesteps"],)
    ]
    counters = [name for name in rest if name.rpartition(".")[2] in BOOKKEEPING and rest[name].numel() == 1]
    aside = [("follows from the noise levels", follow), ("state of the averaging", counters)]
    lines += [f"left aside, {group}: {', '.join(sorted(names))}" for group, names in aside if names]
    for name in {*follow, *counters}:
        del rest[name]
    for beginning, what in LEFT_ASIDE.items():
        if names := [name for name in rest if name.startswith(beginning)]:
            lines.append(f"left aside, {what}: {len(names)} tensors of {beginning}*")
            rest = {name: tensor for name, tensor in rest.items() if not name.startswith(beginning)}
    if rest:
        raise CheckpointError(
            f"found tensor {min(rest)!r} and {len(rest) - 1} others that the configuration has no place for, expected "
            "none; is it this checkpoint's configuration?"
        )
    return lines


SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear"}
"""CompVis' names of schedules and diffusers': their "linear" is linear in the square root."""


def config_beside(path: Path) -> Path:
    """Find the YAML file of a checkpoint: `config.yaml` in its folder, or the only YAML file there."""
    named = path.with_name("config.yaml")
    others = sorted(path.parent.glob("*.yaml"))
    if named.is_file():
        return named
    if len(others) == 1:
        return others[0]
    raise CheckpointError(
        f"found no config.yaml beside {path}, expected the YAML file it was trained with; copy it there"
    )


def model_params(config: Path) -> dict[str, Any]:
    """Read `model.params` of the configuration of an unconditional latent diffusion model."""
    try:
        content = yaml.safe_load(config.read_text())
        params = content["model"]["params"]
        _ = params["unet_config"]["params"], params["first_stage_config"]["params"]["ddconfig"]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"found no latent diffusion model in {config} ({error!r}), expected model.params with unet_config and "
            "first_stage_config"
        ) from error
    if params.get("cond_stage_config", "__is_unconditional__") != "__is_unconditional__":
        raise CheckpointError(
            f"found a conditional model in {config}, expected cond_stage_config __is_unconditional__; convert a "
            "text-conditional one to a diffusers folder"
        )
    return dict(params)


def generator_arguments(params: dict[str, Any]) -> dict[str, Any]:
    """Turn `model.params` into the arguments of `LatentDiffusionGenerator`, but for `scale_factor`."""
    if params.get("given_betas") is not None:
        raise CheckpointError("found given_betas in the configuration, expected noise levels by beta_schedule")
    schedule = params.get("beta_schedule", "linear")
    if schedule not in SCHEDULES:
        raise CheckpointError(f"found beta_schedule {schedule!r}, expected one of {', '.join(SCHEDULES)}")
    predicts = {"eps": "epsilon", "x0": "sample"}.get(params.get("parameterization", "eps"))
    if predicts is None:
        raise CheckpointError(f"found parameterization {params['parameterization']!r}, expected eps or x0")
    try:
        first = params["first_stage_config"]
        first_stage = first_stage_arguments(first["target"], first["params"])
        unet = unet_arguments(params["unet_config"]["params"])
    except KeyError as error:
        raise CheckpointError(f"found no option {error} in the configuration, expected it there") from error
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"found an option of another type in the configuration: {error}") from error
    return {
        "first_stage": first_stage,
        "unet": unet,
        "scheduler": {
            "num_train_timesteps": int(params.get("timesteps", 1000)),
            "beta_schedule": SCHEDULES[schedule],
            "beta_start": float(params.get("linear_start", 1e-4)),
            "beta_end": float(params.get("linear_end", 2e-2)),
            "prediction_type": predicts,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
        },
        "image_size": unet["config"]["sample_size"] * 2 ** (len(first_stage["config"]["block_out_channels"]) - 1),
        "steps": 200,
    }
