"""The U-Net of a CompVis checkpoint: its configuration and tensor names in diffusers' terms.

The network is that of Dhariwal & Nichol (2021) with the options of Rombach et al. (2022) for unconditional models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from lightning_modules.generators.checkpoints.stored import CheckpointError
from lightning_modules.generators.latent_diffusion.renaming import Rename, both, to_linear

REFUSED: dict[str, tuple[Any, ...]] = {
    "use_spatial_transformer": (False,),
    "num_classes": (None,),
    "n_embed": (None,),
    "context_dim": (None,),
    "conv_resample": (True,),
    "dims": (2,),
}
"""Options whose other values make another network, with the values that are read."""

IGNORED = {"dropout", "use_checkpoint", "use_fp16", "legacy", "transformer_depth", "num_heads_upsample"}
"""Options that change nothing when sampling."""

READ = {
    "image_size", "in_channels", "out_channels", "model_channels", "num_res_blocks", "attention_resolutions",
    "channel_mult", "num_heads", "num_head_channels", "use_scale_shift_norm", "use_new_attention_order",
    "resblock_updown",
}  # fmt: skip


def unet_arguments(params: dict[str, Any]) -> dict[str, Any]:
    """Turn `unet_config.params` into the `unet` argument of `LatentDiffusionGenerator`."""
    for option, allowed in REFUSED.items():
        if option in params and params[option] not in allowed:
            raise CheckpointError(
                f"found {option}={params[option]!r} in unet_config, expected {allowed[0]!r}: only unconditional U-Nets "
                "are read; convert others to a diffusers folder"
            )
    unknown = sorted(set(params) - set(REFUSED) - IGNORED - READ)
    if unknown:
        raise CheckpointError(f"found unknown option {unknown[0]!r} in unet_config, expected one of {sorted(READ)}")
    base, channels = int(params["model_channels"]), [int(m) * int(params["model_channels"]) for m in _multiples(params)]
    attention = {int(factor) for factor in params["attention_resolutions"]}
    per_head, heads = int(params.get("num_head_channels", -1)), int(params.get("num_heads", -1))
    if per_head < 1 and heads < 1:
        raise CheckpointError("found neither num_heads nor num_head_channels in unet_config, expected one of them")
    here = [2**level in attention for level in range(len(channels))]
    residual = bool(params.get("resblock_updown"))  # sizes change in residual blocks, not in convolutions
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if residual else ("DownBlock2D", "UpBlock2D")
    config = {
        "sample_size": int(params["image_size"]),
        "in_channels": int(params["in_channels"]),
        "out_channels": int(params["out_channels"]),
        "block_out_channels": channels,
        "layers_per_block": int(params["num_res_blocks"]),
        "down_block_types": ["AttnDownBlock2D" if one else down for one in here],
        "up_block_types": ["AttnUpBlock2D" if one else up for one in reversed(here)],
        "downsample_type": "resnet" if residual else "conv",
        "upsample_type": "resnet" if residual else "conv",
        "time_embedding_dim": 4 * base,
        "attention_head_dim": per_head if per_head > 0 else base,
        "resnet_time_scale_shift": "scale_shift" if params.get("use_scale_shift_norm") else "default",
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,  # else left out where scale and shift come from the time
        "norm_eps": 1e-5,
    }
    arguments: dict[str, Any] = {"kind": "image", "config": config}
    if per_head < 1:
        arguments["heads"] = heads
    return arguments


def unet_renames(params: dict[str, Any], prefix: str) -> Iterator[Rename]:
    """List the U-Net's tensors: `prefix` and CompVis' names to those of diffusers' UNet2DModel."""
    blocks, multiples = int(params["num_res_blocks"]), _multiples(params)
    attention = {int(factor) for factor in params["attention_resolutions"]}
    base = int(params["model_channels"])

    def heads(channels: int) -> int:
        per_head = int(params.get("num_head_channels", -1))
        return channels // per_head if per_head > 0 else int(params["num_heads"])

    def attend(source: str, target: str, channels: int) -> Iterator[Rename]:
        split = _Split(heads(channels), bool(params.get("use_new_attention_order")))
        yield from _attention(f"{prefix}{source}", target, split)

    def resize(source: str, layer: str, target: str) -> Iterator[Rename]:
        if params.get("resblock_updown"):
            return _resnet(f"{prefix}{source}", target, shortcut=False)
        return both(f"{prefix}{source}.{layer}", f"{target}.conv")

    yield from both(f"{prefix}time_embed.0", "time_embedding.linear_1")
    yield from both(f"{prefix}time_embed.2", "time_embedding.linear_2")
    yield from both(f"{prefix}input_blocks.0.0", "conv_in")
    yield from both(f"{prefix}out.0", "conv_norm_out")
    yield from both(f"{prefix}out.2", "conv_out")

    number, channels = 1, base
    for level, multiple in enumerate(multiples):
        for block in range(blocks):
            here = f"down_blocks.{level}"
            shortcut = channels != multiple * base
            yield from _resnet(f"{prefix}input_blocks.{number}.0", f"{here}.resnets.{block}", shortcut)
            channels = multiple * base
            if 2**level in attention:
                yield from attend(f"input_blocks.{number}.1", f"{here}.attentions.{block}", channels)
            number += 1
        if level < len(multiples) - 1:
            yield from resize(f"input_blocks.{number}.0", "op", f"down_blocks.{level}.downsamplers.0")
            number += 1

    yield from _resnet(f"{prefix}middle_block.0", "mid_block.resnets.0", shortcut=False)
    yield from attend("middle_block.1", "mid_block.attentions.0", channels)
    yield from _resnet(f"{prefix}middle_block.2", "mid_block.resnets.1", shortcut=False)

    number = 0
    for up, (level, multiple) in enumerate(reversed(list(enumerate(multiples)))):
        here = f"up_blocks.{up}"
        for block in range(blocks + 1):
            # the input has the skip connection's channels besides its own, so it never has as many as the output
            yield from _resnet(f"{prefix}output_blocks.{number}.0", f"{here}.resnets.{block}", shortcut=True)
            channels, position = multiple * base, 1
            if 2**level in attention:
                yield from attend(f"output_blocks.{number}.1", f"{here}.attentions.{block}", channels)
                position = 2
            if level and block == blocks:
                yield from resize(f"output_blocks.{number}.{position}", "conv", f"{here}.upsamplers.0")
            number += 1


class _Split:
    """Splits the common weight of query, key and value: by heads first, or by kind first (the "new order")."""

    def __init__(self, heads: int, new_order: bool) -> None:
        self.heads, self.new_order = heads, new_order

    def __call__(self, tensor: Tensor) -> list[Tensor]:
        flat = tensor.flatten(1) if tensor.ndim > 1 else tensor  # (3c, c, 1) to (3c, c)
        if self.new_order:
            return [part.contiguous() for part in flat.chunk(3)]
        parts = flat.reshape(self.heads, 3, -1, *flat.shape[1:])
        return [parts[:, i].flatten(0, 1).contiguous() for i in range(3)]


def _resnet(source: str, target: str, shortcut: bool) -> Iterator[Rename]:
    yield from both(f"{source}.in_layers.0", f"{target}.norm1")
    yield from both(f"{source}.in_layers.2", f"{target}.conv1")
    yield from both(f"{source}.emb_layers.1", f"{target}.time_emb_proj")
    yield from both(f"{source}.out_layers.0", f"{target}.norm2")
    yield from both(f"{source}.out_layers.3", f"{target}.conv2")
    if shortcut:
        yield from both(f"{source}.skip_connection", f"{target}.conv_shortcut")


def _attention(source: str, target: str, split: _Split) -> Iterator[Rename]:
    yield from both(f"{source}.norm", f"{target}.group_norm")
    for part in ("weight", "bias"):
        targets = tuple(f"{target}.{layer}.{part}" for layer in ("to_q", "to_k", "to_v"))
        yield Rename(f"{source}.qkv.{part}", targets, split)
    yield from both(f"{source}.proj_out", f"{target}.to_out.0", to_linear)


def _multiples(params: dict[str, Any]) -> list[int]:
    return [int(multiple) for multiple in params.get("channel_mult", (1, 2, 4, 8))]
