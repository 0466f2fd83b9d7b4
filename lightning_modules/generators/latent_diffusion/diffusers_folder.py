"""Reads folders in diffusers' format: an unconditional LDM (`vqvae` or `vae`), or Stable Diffusion (`vae`, text)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.common.files import file_hash
from lightning_modules.generators.checkpoints.families import FOLDERS, NO_READER, PIPELINES, PIXELS, pipeline_family
from lightning_modules.generators.checkpoints.stored import CheckpointError, StoredGenerator
from lightning_modules.generators.latent_diffusion.denoiser import make_scheduler
from lightning_modules.generators.latent_diffusion.diffusers_weights import folder_renames, folder_weights, read_json
from lightning_modules.generators.latent_diffusion.generator import LatentDiffusionGenerator
from lightning_modules.generators.latent_diffusion.prompts import find_prompts
from lightning_modules.generators.latent_diffusion.renaming import rename

FIRST_STAGE_CLASSES = {"VQModel": "vq", "AutoencoderKL": "kl"}
UNET_CLASSES = {"UNet2DModel": "image", "UNet2DConditionModel": "text"}
CONDITIONS = (
    "class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim",
)  # fmt: skip
EMA_OPTIONS = frozenset(
    {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
)
"""What diffusers' `EMAModel` writes into the config of the network that it averages."""
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
    refuse_other_pipelines(path)
    stage_folder = next((path / name for name in ("vqvae", "vae") if (path / name).is_dir()), None)
    if stage_folder is None:
        raise CheckpointError(
            f"found neither vqvae nor vae in {path}: {PIXELS}, or a folder that is not whole; expected one of {FOLDERS}"
        )
    scheduler, report = _scheduler(path / "scheduler")
    stage_kind, stage_config, lines = _component(stage_folder, FIRST_STAGE_CLASSES)
    unet_kind, unet_config, more = _component(path / "unet", UNET_CLASSES)
    report += [*lines, *more]
    if (path / "unet_ema").is_dir():
        report.append("left aside: unet_ema, averaged weights beside unet; to read them, give them the place of unet")
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

    try:
        with torch.device("meta"):  # shapes alone
            network = LatentDiffusionGenerator(**arguments)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"found configs in {path} that make no network: {error}") from error
    tensors: dict[str, Tensor] = {}
    files: list[Path] = []
    for folder, prefix, module in (
        (stage_folder, "first_stage.model", network.first_stage.model),
        (path / "unet", "unet.model", network.unet.model),
    ):
        content, used, lines = folder_weights(folder)
        files += used
        report += lines
        state = rename(content, folder_renames(content, module, folder), module)
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in state.items()}
    return StoredGenerator(
        kind="latent_diffusion",
        arguments=arguments,
        tensors=tensors | extra,
        origin={"format": "diffusers", "file": path.name, "sha256": file_hash(*files)},
        report=tuple(report),
    )


def refuse_other_pipelines(path: Path) -> None:
    """Refuse a folder whose parts make another generator than is read here; its configurations alone will do."""
    if (path / "config.json").is_file() and not (path / "unet").is_dir():
        name = read_json(path / "config.json").get("_class_name")
        raise CheckpointError(
            f"found one part of a diffusers folder in {path} ({name}), expected the whole; give the folder it lies in"
        )
    name = read_json(path / "model_index.json").get("_class_name") if (path / "model_index.json").is_file() else None
    family = pipeline_family(str(name))
    unet = read_json(path / "unet" / "config.json") if (path / "unet" / "config.json").is_file() else {}
    transformers = sorted(part.name for part in path.iterdir() if part.is_dir() and part.name.startswith("transformer"))
    if family is None and (unet.get("addition_embed_type") == "text_time" or (path / "text_encoder_2").is_dir()):
        family = PIPELINES["StableDiffusionXL"]
    elif family is None and transformers and not (path / "unet").is_dir():
        inner = path / transformers[0] / "config.json"
        kind = read_json(inner).get("_class_name") if inner.is_file() else None
        family = f"a diffusion transformer ({kind or transformers[0]})"
    if family is not None:
        said = f" ({name})" if name else ""
        raise CheckpointError(f"found {family}{said} in {path}, expected a diffusers folder of {FOLDERS}; {NO_READER}")


def _component(folder: Path, classes: dict[str, str]) -> tuple[str, dict[str, Any], list[str]]:
    """Kind and config of one part of the folder, and lines for the report."""
    import diffusers

    written = read_json(folder / "config.json")
    bookkeeping = sorted(set(written) & EMA_OPTIONS)
    written = {key: value for key, value in written.items() if key not in EMA_OPTIONS}
    report = [f"{folder.name}: left aside, bookkeeping of the average: {', '.join(bookkeeping)}"] if bookkeeping else []
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
    return classes[name], config, report


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
