"""Reads folders in diffusers' format: an unconditional LDM (`vqvae` or `vae`), or Stable Diffusion (`vae`, text)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.generators.checkpoints.stored import CheckpointError, StoredGenerator
from lightning_modules.generators.latent_diffusion.diffusers_weights import folder_renames, folder_weights, read_json
from lightning_modules.generators.latent_diffusion.files import file_hash
from lightning_modules.generators.latent_diffusion.generator import LatentDiffusionGenerator
from lightning_modules.generators.latent_diffusion.prompts import find_prompts
from lightning_modules.generators.latent_diffusion.renaming import rename
from lightning_modules.generators.latent_diffusion.sampler import make_scheduler

FIRST_STAGE_CLASSES = {"VQModel": "vq", "AutoencoderKL": "kl"}
UNET_CLASSES = {"UNet2DModel": "image", "UNet2DConditionModel": "text"}
CONDITIONS = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type")
SHIFTS = ("shift_factor", "latents_mean", "latents_std")


def read_diffusers(
    path: Path, prompt_embeddings: str | Path | None = None, prompts: Sequence[str] | None = None
) -> StoredGenerator:
    """Read a folder with `vqvae/` or `vae/`, `unet/` and `scheduler/`.

    A text-conditional U-Net takes its prompts from `prompt_embeddings.safetensors` or `prompts.txt` in the folder,
    unless they are given here; see `find_prompts`.

    Args:
        path: the folder.
        prompt_embeddings: safetensors file with embeddings of prompts.
        prompts: texts to encode.

    Raises:
        CheckpointError: what is missing or does not fit.
    """
    stage_folder = next((path / name for name in ("vqvae", "vae") if (path / name).is_dir()), None)
    if stage_folder is None:
        raise CheckpointError(
            f"found neither vqvae nor vae in {path}, expected a diffusers folder of a latent diffusion"
        )
    stage_kind, stage_config = _component(stage_folder, FIRST_STAGE_CLASSES)
    unet_kind, unet_config = _component(path / "unet", UNET_CLASSES)
    scheduler, report = _scheduler(path / "scheduler")
    _refuse(stage_folder, stage_config, SHIFTS)
    _refuse(path / "unet", unet_config, CONDITIONS)

    scale, why = _scale(stage_kind, stage_config)
    report.append(why)
    unet: dict[str, Any] = {"kind": unet_kind, "config": unet_config}
    arguments: dict[str, Any] = {
        "first_stage": {"kind": stage_kind, "config": stage_config},
        "unet": unet,
        "scheduler": scheduler,
        "scale_factor": scale,
        "image_size": _sample_size(path, unet_config) * 2 ** (len(stage_config["block_out_channels"]) - 1),
        "steps": 50,
    }
    extra: dict[str, Tensor] = {}
    if unet_kind == "text":
        width = unet_config.get("cross_attention_dim", 1280)
        if not isinstance(width, int):
            raise CheckpointError(f"found cross_attention_dim {width} in {path / 'unet'}, expected one number")
        embeds, negative, source = find_prompts(path, width, prompt_embeddings, prompts)
        report.append(f"prompts: {source}")
        unet["prompts"] = list(embeds.shape)
        arguments["guidance"] = 7.5
        extra = {"unet.prompt_embeds": embeds, "unet.negative_prompt_embeds": negative}

    with torch.device("meta"):  # shapes alone
        network = _build(path, arguments)
    tensors: dict[str, Tensor] = {}
    files: list[Path] = []
    for folder, prefix, module in (
        (stage_folder, "first_stage.model", network.first_stage.model),
        (path / "unet", "unet.model", network.unet.model),
    ):
        content, used = folder_weights(folder)
        files += used
        state = rename(content, folder_renames(content, module, folder), module)
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in state.items()}
        report.append(f"{folder.name}: {len(content)} tensors of {', '.join(file.name for file in used)}")
    return StoredGenerator(
        kind="latent_diffusion",
        arguments=arguments,
        tensors=tensors | extra,
        origin={"format": "diffusers", "file": path.name, "sha256": file_hash(*files)},
        report=tuple(report),
    )


def _component(folder: Path, classes: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Kind and config of one part of the folder."""
    import diffusers

    written = read_json(folder / "config.json")
    name = written.get("_class_name")
    if name not in classes:
        raise CheckpointError(f"found class {name!r} in {folder / 'config.json'}, expected {' or '.join(classes)}")
    options = inspect.signature(getattr(diffusers, name).__init__).parameters
    unknown = sorted(key for key in written if not key.startswith("_") and key not in options and written[key])
    if unknown:
        raise CheckpointError(
            f"found option {unknown[0]!r} in {folder / 'config.json'}, which {name} of diffusers "
            f"{diffusers.__version__} does not know; expected a config of this or an earlier release"
        )
    config = {key: value for key, value in written.items() if key in options}
    if "block_out_channels" not in config:
        raise CheckpointError(f"found no block_out_channels in {folder / 'config.json'}, expected a whole config")
    return classes[name], config


def _scheduler(folder: Path) -> tuple[dict[str, Any], list[str]]:
    written = read_json(folder / "scheduler_config.json")
    name = written.get("_class_name", "")
    if "beta_start" not in written and written.get("trained_betas") is None:
        raise CheckpointError(
            f"found scheduler {name!r} without beta_start in {folder}, expected one of the DDPM family: DDIM, "
            "DDPM, PNDM, Euler, DPM-Solver"
        )
    if name not in ("DDIMScheduler", "DDPMScheduler"):  # these never clip, and do not write that they do not
        written["clip_sample"] = False
    try:
        scheduler = make_scheduler(written)
    except (NotImplementedError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'scheduler_config.json'}: found values that diffusers cannot use ({error}), expected those of "
            "a scheduler of the DDPM family, such as beta_schedule linear or scaled_linear; mend the file"
        ) from error
    options = inspect.signature(type(scheduler).__init__).parameters
    config = {key: value for key, value in dict(scheduler.config).items() if key in options}
    aside = sorted(key for key in written if not key.startswith("_") and key not in options)
    report = [f"scheduler: {name}" + (", sampled by DDIM with its noise levels" if name != "DDIMScheduler" else "")]
    if aside:
        report.append(f"left aside, options of {name} that DDIM has not: {', '.join(aside)}")
    return config, report


def _scale(kind: str, config: dict[str, Any]) -> tuple[float, str]:
    written = config.get("scaling_factor")
    if written is not None:
        doubt = " (diffusers' default: check it, VQ-f4 has 1.0)" if kind == "vq" and written == 0.18215 else ""
        return float(written), f"scale of the latents: {written}, from the config{doubt}"
    # diffusers' default for both is that of Stable Diffusion's autoencoder, which no published VQ model has
    scale = 1.0 if kind == "vq" else 0.18215
    return scale, f"scale of the latents: {scale}, the default of a {kind} first stage: none in the config"


def _refuse(folder: Path, config: dict[str, Any], options: Sequence[str]) -> None:
    for option in options:
        if config.get(option) is not None:
            raise CheckpointError(f"found {option}={config[option]!r} in {folder / 'config.json'}, expected none")


def _sample_size(path: Path, config: dict[str, Any]) -> int:
    size = config.get("sample_size")
    sizes = {size} if isinstance(size, int) else set(size or ())
    if len(sizes) != 1:
        raise CheckpointError(f"found sample_size {size} in {path / 'unet'}, expected one number: square images")
    return int(sizes.pop())


def _build(path: Path, arguments: dict[str, Any]) -> LatentDiffusionGenerator:
    try:
        return LatentDiffusionGenerator(**arguments)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"found configs in {path} that make no network: {error}") from error
