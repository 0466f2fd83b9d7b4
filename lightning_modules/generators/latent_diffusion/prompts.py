"""Prompts of a text-conditional model: embeddings from a file, or encoded by the folder's own text encoder."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.generators.checkpoints.stored import CheckpointError
from lightning_modules.generators.latent_diffusion.diffusers_weights import folder_weights, read_safetensors

EMBEDDINGS_FILE = "prompt_embeddings.safetensors"
PROMPTS_FILE = "prompts.txt"
TEXT_WEIGHTS = ("model", "pytorch_model")
"""How names of a text encoder's weights begin: safetensors, and pickles."""
TEXT_BEGINNINGS = ("text_model",)


def find_prompts(
    folder: Path, width: int, embeddings: str | Path | None = None, prompts: Sequence[str] | None = None
) -> tuple[Tensor, Tensor, str]:
    """Find the prompts of a model folder.

    Args:
        folder: the model's.
        width: width of a token's embedding that the U-Net takes.
        embeddings: safetensors file with `prompt_embeds (k, tokens, width)` and `negative_prompt_embeds
            (1, tokens, width)`, what diffusers' `encode_prompt` gives. None for `prompt_embeddings.safetensors` in the
            folder.
        prompts: texts to encode with the folder's `tokenizer` and `text_encoder`; None for the lines of `prompts.txt`
            in the folder. Used where no embeddings are given.

    Returns:
        `prompt_embeds`, `negative_prompt_embeds`, and a line that says where they are from.

    Raises:
        CheckpointError: neither of them, or embeddings of another shape.
    """
    path = folder / EMBEDDINGS_FILE if embeddings is None else Path(embeddings)
    if prompts is None and embeddings is None and not path.is_file() and (folder / PROMPTS_FILE).is_file():
        lines = (folder / PROMPTS_FILE).read_text(encoding="utf-8").splitlines()
        prompts = [line.strip() for line in lines if line.strip()]
    if prompts:
        embeds, negative, lines = encode_prompts(folder, prompts)
        source = f"{len(prompts)} prompts, encoded by {folder.name}/text_encoder ({'; '.join(lines)})"
    elif path.is_file():
        tensors = read_safetensors(path)
        lacking = {"prompt_embeds", "negative_prompt_embeds"} - set(tensors)
        if lacking:
            raise CheckpointError(
                f"found no {min(lacking)} in {path}, expected it there as diffusers' encode_prompt gives it"
            )
        embeds, negative = tensors["prompt_embeds"].float(), tensors["negative_prompt_embeds"].float()
        source = f"{len(embeds)} prompts, embeddings of {path.name}"
    else:
        raise CheckpointError(
            f"found a text-conditional model in {folder} and no prompts, expected {EMBEDDINGS_FILE} or {PROMPTS_FILE} "
            "(one prompt per line) in that folder"
        )
    tokens = embeds.shape[1] if embeds.ndim == 3 else 0
    if embeds.ndim != 3 or embeds.shape[2] != width or negative.shape != (1, tokens, width) or not len(embeds):
        raise CheckpointError(
            f"found prompt_embeds {tuple(embeds.shape)} and negative_prompt_embeds {tuple(negative.shape)}, expected "
            f"(k, tokens, {width}) and (1, tokens, {width}): the U-Net takes tokens of width {width}"
        )
    return embeds, negative, source


@torch.no_grad()
def encode_prompts(folder: Path, prompts: Sequence[str]) -> tuple[Tensor, Tensor, list[str]]:
    """Encode texts with the CLIP text encoder of a Stable Diffusion folder, from local files of tensors alone.

    Texts longer than the tokenizer's maximum are cut. Returns embeddings `(k, tokens, width)` of the prompts,
    `(1, tokens, width)` of the empty one, and lines for a report.
    """
    for part in ("tokenizer", "text_encoder"):
        if not (folder / part).is_dir():
            raise CheckpointError(f"found no {folder / part}, expected it there to encode prompts; or give embeddings")
    try:
        transformers: Any = importlib.import_module("transformers")  # no requirement of this project
    except ImportError as error:
        raise CheckpointError(
            f"found no package transformers, which encodes prompts; install it, or put {EMBEDDINGS_FILE} into {folder}"
        ) from error
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        config = transformers.CLIPTextConfig.from_pretrained(folder / "text_encoder", local_files_only=True)
        tensors, _, lines = folder_weights(folder / "text_encoder", TEXT_WEIGHTS, TEXT_BEGINNINGS)
        encoder, found = transformers.CLIPTextModel.from_pretrained(
            None, config=config, state_dict=tensors, output_loading_info=True, dtype=torch.float32
        )
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"found a text encoder in {folder} that cannot be read: {error}") from error
    if found["missing_keys"]:
        raise CheckpointError(
            f"found no tensor {min(found['missing_keys'])!r} in {folder / 'text_encoder'}, expected it there"
        )
    length = tokenizer.model_max_length
    ids = tokenizer(["", *prompts], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    embeds: Tensor = encoder.eval()(ids.input_ids).last_hidden_state.float()
    return embeds[1:].contiguous(), embeds[:1].contiguous(), lines
