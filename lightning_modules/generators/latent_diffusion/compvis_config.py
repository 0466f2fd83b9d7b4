"""The configuration of a CompVis checkpoint as arguments of our generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lightning_modules.generators.checkpoints.stored import CheckpointError
from lightning_modules.generators.latent_diffusion.compvis_first_stage import first_stage_arguments
from lightning_modules.generators.latent_diffusion.compvis_unet import unet_arguments

SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear"}
"""CompVis' names of schedules and diffusers': their "linear" is linear in the square root."""


def config_beside(path: Path) -> Path:
    """Find the YAML file of a checkpoint: `config.yaml` in its folder, or the only YAML file there.

    Raises:
        CheckpointError: there is none, or more than one.
    """
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
    """Read `model.params` of a configuration.

    Raises:
        CheckpointError: no latent diffusion model, or a conditional one.
    """
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
    """Turn `model.params` into the arguments of `LatentDiffusionGenerator`, but for `scale_factor`.

    Raises:
        CheckpointError: an option that is missing, unknown or not read.
    """
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
