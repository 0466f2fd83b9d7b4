"""A whole file of a family that has no reader is named as that family, with what to do; it is not called incomplete."""

from __future__ import annotations

import json
import pickle
import re
import sys
import types

import numpy as np
import pytest
import torch
from public_files import nvidia_state, rosinality_state, write_nvidia
from safetensors.torch import save_file

from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.stored import CheckpointError

BLAME = ("incomplete", "damaged", "truncated", "found no tensor")


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    text = str(caught.value)
    assert "\n" not in text
    assert not [word for word in BLAME if word in text], text
    return text


class Network:
    """What the TensorFlow releases pickle: names, settings, source code, and variables as arrays."""

    def __init__(self, function, variables, components=None):
        self.parts = (function, variables, components or {})

    def __getstate__(self):
        function, variables, components = self.parts
        return {
            "version": 4,
            "name": function,
            "static_kwargs": {"resolution": 8, "num_channels": 3},
            "components": components,
            "build_module_src": "raise RuntimeError('the file ran its own source')",
            "build_func_name": function,
            "variables": [(name, np.zeros(shape, np.float32)) for name, shape in variables.items()],
        }

    def __setstate__(self, state):
        raise AssertionError("the file's code was run")


STYLEGAN2 = {"4x4/Const/const": (1, 8, 4, 4), "4x4/Conv/weight": (3, 3, 8, 8), "4x4/Conv/mod_weight": (8, 8)}
STYLEGAN = {"4x4/Const/const": (1, 8, 4, 4), "4x4/Const/StyleMod/weight": (8, 16), "lod": ()}
TENSORFLOW = {
    "stylegan2": (
        "dnnlib.tflib.network",
        STYLEGAN2,
        r"a StyleGAN2 of the TensorFlow releases; convert it with .*legacy",
    ),
    "stylegan": ("dnnlib.tflib.network", STYLEGAN, r"a StyleGAN \(2019\) of the TensorFlow release, .* no reader"),
    "growing": ("tfutil", {"4x4/Dense/weight": (8, 128)}, r"a progressively grown GAN \(2018\)"),
}


@pytest.mark.parametrize("kind", TENSORFLOW)
@pytest.mark.parametrize("alone", [True, False])
def test_tensorflow_pickles_say_how_they_are_converted(kind, alone, tmp_path, monkeypatch):
    module, variables, message = TENSORFLOW[kind]
    for name in (".".join(module.split(".")[:i]) for i in range(1, module.count(".") + 2)):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[module].Network = Network
    monkeypatch.setattr(Network, "__module__", module)
    inner = Network("G_synthesis", variables)
    outer = Network("G_main", {"dlatent_avg": (8,)}, {"synthesis": inner, "mapping": Network("G_mapping", {})})
    content = outer if alone else (outer, Network("D_main", {"4x4/Conv/weight": (3, 3, 8, 8)}), outer)
    (tmp_path / "network.pkl").write_bytes(pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL))
    text = refusal(tmp_path / "network.pkl")
    assert text.startswith("network.pkl: found a ")
    assert re.search(message, text), text
    assert ("convert_weight.py" in text) == (kind == "stylegan2")


def alias_free(classes=0, projected=False):
    state = {"synthesis.input.weight": (8, 8), "synthesis.input.freqs": (8, 2), "synthesis.input.phases": (8,)}
    state |= {"synthesis.L0_36_8.weight": (8, 8, 3, 3), "synthesis.L0_36_8.down_filter": (12,)}
    state |= {"mapping.fc0.weight": (8, 8), "mapping.fc0.bias": (8,), "mapping.w_avg": (8,)}
    if classes:
        state["mapping.embed.weight"] = (classes, 8)
    if projected:
        state["mapping.embed_proj.weight"] = (8, 8)
    return {name: torch.randn(shape) for name, shape in state.items()}


FASTGAN = {"synthesis.init.init.1.weight": torch.ones(2), "synthesis.feat_8.0.weight": torch.ones(2)}
PICKLES = {
    "StyleGAN3": (alias_free(), "Generator", "found a StyleGAN3 generator;"),
    "StyleGAN3, classes": (alias_free(10), "Generator", "found a class-conditional StyleGAN3 generator;"),
    "StyleGAN-XL": (alias_free(10, True), "Generator", "found a StyleGAN-XL generator;"),
    "StyleGAN-XL, large": (alias_free(), "SuperresGenerator", r"found a StyleGAN-XL generator \(super-resolution"),
    "FastGAN": (FASTGAN | {"synthesis.to_big.weight": torch.ones(2)}, "Generator", "found a FastGAN generator of"),
    "StyleGAN2, classes": (
        nvidia_state(16, 8, 2) | {"mapping.embed.weight": torch.ones(8, 3)},
        "Generator",
        "found a class-conditional StyleGAN2 generator, expected an unconditional one",
    ),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_network_pickles_of_other_architectures_are_named(kind, tmp_path):
    state, class_name, message = PICKLES[kind]
    path = write_nvidia(tmp_path / "a.pkl", state, class_name=class_name)
    assert re.match(f"a.pkl: {message}", refusal(path)), refusal(path)


def test_objects_of_other_programs_are_told_by_their_module(tmp_path):
    (tmp_path / "a.pkl").write_bytes(
        b"\x80\x02}X\x01\x00\x00\x00Dcpg_modules.discriminator\nProjectedDiscriminator\ns."
    )
    assert "as in pickles of Projected GAN and StyleGAN-XL" in refusal(tmp_path / "a.pkl")


UNET = ("model.diffusion_model.input_blocks.0.0.weight", "model.diffusion_model.output_blocks.0.0.weight")
CROSS = (*UNET, "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight")
STAGE = ("first_stage_model.decoder.conv_in.weight", "first_stage_model.post_quant_conv.weight")
FILES = {
    "Stable Diffusion 1 checkpoint in one file; write it as a diffusers folder": (
        *(*CROSS, *STAGE),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    ),
    "Stable Diffusion 2 checkpoint in one file; write": (*CROSS, *STAGE, "cond_stage_model.model.ln_final.weight"),
    "Stable Diffusion XL checkpoint in one file": (*CROSS, *STAGE, "conditioner.embedders.0.transformer.weight"),
    "Stable Diffusion 3 checkpoint": ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",),
    "FLUX checkpoint": ("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"),
    "class-conditional latent diffusion": (*CROSS, *STAGE, "cond_stage_model.embedding.weight"),
    "DiT, a diffusion transformer": ("x_embedder.proj.weight", "blocks.0.adaLN_modulation.1.weight"),
    "U-Net of a pixel diffusion": ("input_blocks.0.0.weight", "time_embed.0.weight", "output_blocks.0.0.weight"),
    "U-Net of a diffusers folder alone; give the whole": ("down_blocks.0.conv.weight", "time_embedding.linear_1.bias"),
    "first stage of a diffusers folder alone; give": ("decoder.conv_in.weight", "decoder.up_blocks.0.conv.weight"),
    "first stage of a latent diffusion alone; give": ("decoder.up.0.block.0.conv1.weight", "post_quant_conv.weight"),
    "StyleGAN3 generator": tuple(alias_free()),
    "tensors of a stylegan2-ada-pytorch generator alone; give the .pkl": tuple(nvidia_state(8, 4, 1)),
    "pSp or e4e checkpoint": ("encoder.body.0.weight", *(f"decoder.{name}" for name in rosinality_state(8, 4))),
    "StyleGAN (2019) generator": ("generator.progression.0.conv1.weight", "style.1.linear.weight_orig"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["pt", "state_dict", "safetensors"])
def test_files_of_loose_tensors_are_named(name, form, tmp_path):
    state = {key: torch.full((2,), float(i)) for i, key in enumerate(FILES[name])}
    path = tmp_path / f"a.{form}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 3} if form == "state_dict" else state, path)
    assert re.match(rf"a\.{form}: found (a|the) {re.escape(name)}", refusal(path))


def folder(root, index=None, **configs):
    for part, config in configs.items():
        (root / part).mkdir(parents=True)
        (root / part / "config.json").write_text(json.dumps(config))
    if index is not None:
        (root / "model_index.json").write_text(json.dumps({"_class_name": index}))
    return root


TEXT = {"_class_name": "UNet2DConditionModel"}
FOLDERS = {
    "Stable Diffusion XL (StableDiffusionXLPipeline)": {"index": "StableDiffusionXLPipeline", "unet": TEXT, "vae": {}},
    "Stable Diffusion XL": {"unet": {**TEXT, "addition_embed_type": "text_time"}, "vae": {}},
    "a DiT, a diffusion transformer (DiTPipeline)": {"index": "DiTPipeline", "transformer": {}, "vae": {}},
    "Stable Diffusion 3, a diffusion transformer": {"index": "StableDiffusion3Pipeline", "transformer": {}},
    "a diffusion transformer (SomethingTransformer2DModel)": {
        **{"transformer": {"_class_name": "SomethingTransformer2DModel"}, "vae": {}},
    },
    "a Stable Diffusion that inpaints": {"index": "StableDiffusionInpaintPipeline", "unet": TEXT, "vae": {}},
    "a pixel diffusion, which has no first stage (DDPMPipeline)": {"index": "DDPMPipeline", "unet": {}},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_other_pipelines_are_named(name, tmp_path):
    text = refusal(folder(tmp_path / "a", **FOLDERS[name]))
    assert text.startswith(f"found {name}"), text
    assert "expected a diffusers folder of an unconditional latent diffusion" in text


def test_one_part_of_a_diffusers_folder_is_named(tmp_path):
    folder(tmp_path, unet=TEXT)
    save_file({"a": torch.ones(1)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    text = refusal(tmp_path / "unet")
    assert "found one part of a diffusers folder in" in text
    assert "(UNet2DConditionModel), expected the whole; give the folder it lies in" in text
