"""Generators that no reader takes, named by what their files hold: a whole file of another kind is not incomplete.

A family is told by the names of tensors, by the class that a pickle names, or by the class of a pipeline that a folder
names. Nothing of a file is run for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_modules.generators.checkpoints.safe_pickle import PickledObject
from lightning_modules.generators.checkpoints.stored import CheckpointError

EXPECTED = (
    "a StyleGAN2 .pt of rosinality (g_ema), a .pkl of stylegan2-ada-pytorch (G_ema), a latent diffusion model.ckpt "
    "with its config.yaml beside it, a diffusers folder, or a .safetensors of the convert command"
)
"""What can be read, for messages."""
NO_READER = "this project has no reader for it; write its images with its own code, which is all that attribution needs"
OWN_CODE = f"{NO_READER}, or give {EXPECTED}"
TENSORFLOW = ("dnnlib.tflib.network.Network", "tfutil.Network")
"""The class of networks in pickles of the TensorFlow releases, of StyleGAN and of the growing GAN before it."""


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint."""

    name: str  # with its article, as it stands after "found"
    signs: tuple[str, ...]  # pieces of dotted names, a dot before each; all of them occur in such a checkpoint
    advice: str = OWN_CODE  # what to do


GIVE_PICKLE = "give the .pkl itself, which says besides how features are scaled and clamped"
GIVE_FOLDER = "give the whole folder it belongs to, with model_index.json"
SINGLE_FILE = (
    "write it as a diffusers folder with `StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)` of "
    "diffusers, and give that folder"
)
PICKLED = (
    Family("a StyleGAN-XL generator", (".mapping.embed_proj.", ".input.freqs")),
    Family("a class-conditional StyleGAN3 generator", (".mapping.embed.", ".input.freqs")),
    Family("a StyleGAN3 generator", (".input.freqs", ".input.phases")),
    Family("a FastGAN generator of Projected GAN or StyleGAN-XL", (".to_big.", ".feat_8.")),
    Family(
        "a class-conditional StyleGAN2 generator, expected an unconditional one", (".mapping.embed.", ".synthesis.b4.")
    ),
)
"""What a network pickle of NVIDIA's kind can hold besides an unconditional StyleGAN2."""
SUPER_RESOLUTION = Family("a StyleGAN-XL generator (super-resolution stages)", ())
CONDITIONAL = (
    Family("a Stable Diffusion XL checkpoint in one file", (".conditioner.embedders.",)),
    Family("a Stable Diffusion 3 checkpoint, a diffusion transformer", (".joint_blocks.0.",)),
    Family("a FLUX checkpoint, a diffusion transformer", (".double_blocks.0.", ".single_blocks.0.")),
    Family(
        "a Stable Diffusion 1 checkpoint in one file",
        (".diffusion_model.", ".cond_stage_model.transformer.text_model."),
        SINGLE_FILE,
    ),
    Family(
        "a Stable Diffusion 2 checkpoint in one file", (".diffusion_model.", ".cond_stage_model.model."), SINGLE_FILE
    ),
    Family(
        "a class-conditional latent diffusion", (".attn2.to_k.", ".first_stage_model.", ".cond_stage_model.embedding.")
    ),
)
"""Latent diffusions in one file that follow a text or a class, with their first stage or without."""
LOOSE = (
    *PICKLED,
    Family("the tensors of a stylegan2-ada-pytorch generator alone", (".synthesis.b4.const",), GIVE_PICKLE),
    Family(
        "a pSp or e4e checkpoint, a StyleGAN2 of rosinality under decoder.* and an encoder",
        (".decoder.style.1.weight", ".decoder.convs.0."),
        "save its decoder alone where it was made: the tensors of decoder.*, without that prefix, under the key g_ema",
    ),
    Family("a StyleGAN (2019) generator", (".generator.progression.0.", ".style.1.")),
    Family("a StyleGAN2 of lucidrains' stylegan2_pytorch", (".GE.S.", ".GE.G.")),
    *CONDITIONAL,
    Family("a DiT, a diffusion transformer", (".x_embedder.proj.", ".adaLN_modulation.")),
    Family(
        "the U-Net of a pixel diffusion (guided-diffusion, improved-diffusion), or a latent one without first stage",
        (".input_blocks.0.0.", ".time_embed.0.", ".output_blocks.0.0."),
    ),
    Family("the U-Net of a diffusers folder alone", (".down_blocks.0.", ".time_embedding.linear_1."), GIVE_FOLDER),
    Family("a diffusion transformer of diffusers", (".transformer_blocks.0.", ".pos_embed.proj.")),
    Family("the first stage of a diffusers folder alone", (".decoder.up_blocks.0.", ".decoder.conv_in."), GIVE_FOLDER),
    Family(
        "the first stage of a latent diffusion alone",
        (".decoder.up.0.block.0.", ".post_quant_conv."),
        "give the latent diffusion model.ckpt, which holds its first stage as well",
    ),
)
"""What else a file of loose tensors can hold; the first whose signs all occur is named."""

PIXELS = "a pixel diffusion, which has no first stage"
PIPELINES = {
    "StableDiffusionXL": "Stable Diffusion XL",
    "StableDiffusion3": "Stable Diffusion 3, a diffusion transformer",
    "StableDiffusionInpaint": "a Stable Diffusion that inpaints",
    "StableDiffusionUpscale": "a Stable Diffusion that enlarges images",
    "StableDiffusionLatentUpscale": "a Stable Diffusion that enlarges latents",
    "StableDiffusionDepth2Img": "a Stable Diffusion that follows depth maps",
    "StableDiffusionInstructPix2Pix": "a Stable Diffusion that edits images",
    "StableDiffusionImageVariation": "a Stable Diffusion that follows images",
    "StableUnCLIP": "a Stable Diffusion that follows CLIP embeddings",
    "StableCascade": "Stable Cascade",
    "LatentConsistencyModel": "a latent consistency model",
    "LDMTextToImage": "a latent diffusion with a BERT text encoder",
    "LDMSuperResolution": "a latent diffusion that enlarges images",
    "DiT": "a DiT, a diffusion transformer",
    "PixArt": "PixArt, a diffusion transformer",
    "Flux": "FLUX, a diffusion transformer",
    "Hunyuan": "HunyuanDiT, a diffusion transformer",
    "Lumina": "Lumina, a diffusion transformer",
    "Sana": "Sana, a diffusion transformer",
    "AuraFlow": "AuraFlow, a diffusion transformer",
    "QwenImage": "Qwen-Image, a diffusion transformer",
    "Kandinsky": "Kandinsky",
    "Wuerstchen": "Wuerstchen",
    "IF": "DeepFloyd IF, a pixel diffusion",
    **dict.fromkeys(("DDPM", "DDIM", "PNDM", "ScoreSde", "KarrasVe", "ConsistencyModel"), PIXELS),
}
"""What pipelines of diffusers hold whose parts no reader takes, by how their class begins; the longest counts."""
FOLDERS = "an unconditional latent diffusion (vqvae or vae with a UNet2DModel) or Stable Diffusion 1 or 2"


def family_of(names: Iterable[str], families: Iterable[Family] = LOOSE) -> Family | None:
    """The family that names of tensors belong to, or None."""
    joined = "".join(f".{name}\n" for name in names)
    return next((family for family in families if all(sign in joined for sign in family.signs)), None)


def refuse_other_families(names: Iterable[str], begin: str, class_name: str = "") -> None:
    """Refuse a network pickle of NVIDIA's kind whose network is no unconditional StyleGAN2.

    The names of its tensors and the network's `class_name` tell; the message begins with `begin`, up to "found".
    """
    family = SUPER_RESOLUTION if class_name.endswith("SuperresGenerator") else family_of(names, PICKLED)
    if family is not None:
        raise CheckpointError(f"{begin} {family.name}; {family.advice}")


def refuse_known(content: Any, file: str, families: Iterable[Family] = LOOSE) -> None:
    """Refuse what `read_tensor_pickle` gave of a file, where it belongs to a family without a reader."""
    networks = [one for one in _members(content) if isinstance(one, PickledObject) and one.class_name in TENSORFLOW]
    if networks:
        raise CheckpointError(f"{file}: found {_tensorflow_family(networks[-1])}")
    family = family_of(_names(content), families)
    if family is not None:
        raise CheckpointError(f"{file}: found {family.name}; {family.advice}")


def pipeline_family(class_name: str) -> str | None:
    """What a pipeline class of diffusers holds, where no reader takes it; else None."""
    known = [begin for begin in PIPELINES if class_name.startswith(begin)]
    return PIPELINES[max(known, key=len)] if known else None


def _members(content: Any) -> list[Any]:
    if isinstance(content, dict):
        return list(content.values())
    return list(content) if isinstance(content, (tuple, list)) else [content]


def _names(content: Any) -> Iterator[str]:
    """Names of the tensors of a file, and of those one level deeper under their own names."""
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield str(key)
        elif isinstance(value, dict):
            yield from (str(name) for name, inner in value.items() if isinstance(inner, Tensor))


def _tensorflow_family(network: PickledObject) -> str:
    """What a network of the TensorFlow releases is, and what to do about it."""
    variables = list(_variables(network))
    if any(name.endswith("/mod_weight") for name in variables):
        return (
            "a StyleGAN2 of the TensorFlow releases; convert it with `python legacy.py --source=FILE --dest=NEW.pkl` "
            "of stylegan2-ada-pytorch and give the new .pkl, or with convert_weight.py of rosinality's "
            "stylegan2-pytorch and give the .pt"
        )
    if any("/StyleMod/" in name for name in variables):
        return f"a StyleGAN (2019) of the TensorFlow release, whose layers are not those of StyleGAN2; {OWN_CODE}"
    if network.class_name.startswith("tfutil."):
        return f"a progressively grown GAN (2018) of the TensorFlow release; {OWN_CODE}"
    return f"a network of NVIDIA's TensorFlow releases that is no StyleGAN2 generator; {OWN_CODE}"


def _variables(network: Any, depth: int = 0) -> Iterator[str]:
    state = network.state if isinstance(network, PickledObject) else None
    if not isinstance(state, dict) or depth > 4:
        return
    variables, components = state.get("variables"), state.get("components")
    for entry in variables if isinstance(variables, list) else []:
        if isinstance(entry, (tuple, list)) and entry:
            yield str(entry[0])
    for part in components.values() if isinstance(components, dict) else []:
        yield from _variables(part, depth + 1)
