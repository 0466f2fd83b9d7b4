"""The first stage of a CompVis checkpoint: its configuration and tensor names in diffusers' terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning_modules.generators.checkpoints.stored import CheckpointError
from lightning_modules.generators.latent_diffusion.renaming import Rename, both, to_linear

KINDS = {"VQModelInterface": "vq", "VQModel": "vq", "AutoencoderKL": "kl"}

REFUSED: dict[str, tuple[Any, ...]] = {
    "attn_type": ("vanilla",),
    "use_linear_attn": (False,),
    "resamp_with_conv": (True,),
    "tanh_out": (False,),
    "give_pre_end": (False,),
}
"""Options of `ddconfig` whose other values make another network."""

READ = {
    "double_z", "z_channels", "resolution", "in_channels", "out_ch", "ch", "ch_mult", "num_res_blocks",
    "attn_resolutions", "dropout",
}  # fmt: skip


def first_stage_arguments(target: str, params: dict[str, Any]) -> dict[str, Any]:
    """Turn `first_stage_config` into the `first_stage` argument of `LatentDiffusionGenerator`."""
    kind = KINDS.get(target.rsplit(".", 1)[-1])
    if kind is None:
        raise CheckpointError(f"found first stage {target!r}, expected one of {', '.join(sorted(KINDS))}")
    dd = params["ddconfig"]
    for option, allowed in REFUSED.items():
        if option in dd and dd[option] not in allowed:
            raise CheckpointError(f"found {option}={dd[option]!r} in ddconfig, expected {allowed[0]!r}")
    unknown = sorted(set(dd) - set(REFUSED) - READ)
    if unknown:
        raise CheckpointError(f"found unknown option {unknown[0]!r} in ddconfig, expected one of {sorted(READ)}")
    if params.get("remap") is not None:
        raise CheckpointError("found a remapped codebook (remap), expected the whole one")
    if bool(dd.get("double_z", True)) != (kind == "kl"):
        raise CheckpointError(f"found double_z={dd.get('double_z', True)} for a {kind} first stage")
    embed, z_channels = int(params["embed_dim"]), int(dd["z_channels"])
    if kind == "kl" and embed != z_channels:
        raise CheckpointError(
            f"found embed_dim {embed} and z_channels {z_channels}, expected equal ones in AutoencoderKL"
        )
    here = _attention_levels(dd)
    config = {
        "in_channels": int(dd["in_channels"]),
        "out_channels": int(dd["out_ch"]),
        "block_out_channels": [int(dd["ch"]) * int(multiple) for multiple in dd["ch_mult"]],
        "layers_per_block": int(dd["num_res_blocks"]),
        "down_block_types": ["AttnDownEncoderBlock2D" if one else "DownEncoderBlock2D" for one in here],
        "up_block_types": ["AttnUpDecoderBlock2D" if one else "UpDecoderBlock2D" for one in reversed(here)],
        "latent_channels": z_channels,
        "sample_size": int(dd["resolution"]),
        "norm_num_groups": 32,
    }
    if kind == "vq":
        config |= {"vq_embed_dim": embed, "num_vq_embeddings": int(params["n_embed"])}
    return {"kind": kind, "config": config}


def first_stage_renames(target: str, params: dict[str, Any], prefix: str) -> Iterator[Rename]:
    """List the first stage's tensors: `prefix` and CompVis' names to those of diffusers' VQModel or AutoencoderKL."""
    dd = params["ddconfig"]
    multiples, blocks = [int(multiple) for multiple in dd["ch_mult"]], int(dd["num_res_blocks"])
    attention, last = _attention_levels(dd), len(multiples) - 1

    yield from both(f"{prefix}quant_conv", "quant_conv")
    yield from both(f"{prefix}post_quant_conv", "post_quant_conv")
    if KINDS[target.rsplit(".", 1)[-1]] == "vq":
        yield Rename(f"{prefix}quantize.embedding.weight", ("quantize.embedding.weight",))
    for half in ("encoder", "decoder"):
        for ours, theirs in (("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out")):
            yield from both(f"{prefix}{half}.{theirs}", f"{half}.{ours}")
        for block in (0, 1):
            yield from _resnet(f"{prefix}{half}.mid.block_{block + 1}", f"{half}.mid_block.resnets.{block}", False)
        yield from _attention(f"{prefix}{half}.mid.attn_1", f"{half}.mid_block.attentions.0")

    for level, multiple in enumerate(multiples):
        changed = multiple != (multiples[level - 1] if level else 1)
        for block in range(blocks):
            source, ours = f"{prefix}encoder.down.{level}", f"encoder.down_blocks.{level}"
            yield from _resnet(f"{source}.block.{block}", f"{ours}.resnets.{block}", changed and block == 0)
            if attention[level]:
                yield from _attention(f"{source}.attn.{block}", f"{ours}.attentions.{block}")
        if level < last:
            yield from both(f"{source}.downsample.conv", f"{ours}.downsamplers.0.conv")

        changed = level < last and multiple != multiples[level + 1]
        for block in range(blocks + 1):
            source, ours = f"{prefix}decoder.up.{level}", f"decoder.up_blocks.{last - level}"
            yield from _resnet(f"{source}.block.{block}", f"{ours}.resnets.{block}", changed and block == 0)
            if attention[level]:
                yield from _attention(f"{source}.attn.{block}", f"{ours}.attentions.{block}")
        if level > 0:
            yield from both(f"{source}.upsample.conv", f"{ours}.upsamplers.0.conv")


def _attention_levels(dd: dict[str, Any]) -> list[bool]:
    sizes = {int(size) for size in dd["attn_resolutions"]}
    return [int(dd["resolution"]) // 2**level in sizes for level in range(len(dd["ch_mult"]))]


def _resnet(source: str, target: str, shortcut: bool) -> Iterator[Rename]:
    for layer in ("norm1", "conv1", "norm2", "conv2"):
        yield from both(f"{source}.{layer}", f"{target}.{layer}")
    if shortcut:
        yield from both(f"{source}.nin_shortcut", f"{target}.conv_shortcut")


def _attention(source: str, target: str) -> Iterator[Rename]:
    yield from both(f"{source}.norm", f"{target}.group_norm")
    for theirs, ours in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        yield from both(f"{source}.{theirs}", f"{target}.{ours}", to_linear)
