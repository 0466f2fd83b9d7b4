"""CompVis checkpoints give what the CompVis code gives, and broken ones are refused by the tensor's name.

The golden arrays were computed by that code with weights that follow from their names (`seeded.py`); `vq` has averaged
weights, `kl` attention in the first stage, a fixed number of heads, scale and shift, and sizes changed in residual
blocks.
"""

from __future__ import annotations

import argparse

import pytest
import torch
from compvis_checkpoints import averaged_name
from seeded import seeded_tensor

from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.stored import CheckpointError
from lightning_modules.generators.latent_diffusion import LatentDiffusionGenerator
from lightning_modules.generators.latent_diffusion.compvis import read_compvis

CASES = ("vq", "kl")


def load(folder):
    stored = read_compvis(folder / "model.ckpt")
    network = LatentDiffusionGenerator(**stored.arguments)
    network.load_state_dict(stored.tensors, strict=True)
    return stored, network.freeze()


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_code(case, compvis_folder, golden):
    _, network = load(compvis_folder(case))
    expected = {name: torch.from_numpy(value) for name, value in golden(case).items()}
    shape = expected["ddim"].shape

    latents = seeded_tensor("input.latents", shape).requires_grad_()
    images = network.synthesize(latents.flatten(1))
    decoded = images * 2 - 1
    torch.testing.assert_close(decoded, expected["decoded"], atol=1e-4, rtol=0)
    cotangent = seeded_tensor("input.cotangent", decoded.shape)
    (gradient,) = torch.autograd.grad((decoded * cotangent).sum(), latents)
    torch.testing.assert_close(gradient, expected["gradient"], atol=1e-4, rtol=0)

    with torch.no_grad():
        pictures = seeded_tensor("input.images", decoded.shape).clamp(-1, 1)
        torch.testing.assert_close(network.first_stage.encode(pictures), expected["encoded"], atol=1e-4, rtol=0)
        noise = [seeded_tensor("input.noise", shape)] + [seeded_tensor(f"input.step{i}", shape) for i in range(10)]
        index = torch.arange(len(latents))
        ddim = network.configure(steps=10, eta=0.0).denoise(torch.stack(noise[:1], dim=1), index)
        torch.testing.assert_close(ddim, expected["ddim"], atol=1e-3, rtol=0)
        ddpm = network.configure(steps=10, eta=1.0).denoise(torch.stack(noise, dim=1), index)
        torch.testing.assert_close(ddpm, expected["ddpm"], atol=1e-3, rtol=0)


def test_report_names_every_tensor(compvis_folder):
    stored, network = load(compvis_folder("vq"))
    report = "\n".join(stored.report)
    assert "153 tensors of first_stage_model.*" in report
    assert "128 tensors of model_ema.* (averaged" in report
    assert "alphas_cumprod agrees" in report
    assert "model_ema.decay, model_ema.num_updates" in report
    assert "left aside, follows from the noise levels: betas" in report
    assert stored.arguments["scale_factor"] == 1.0
    assert set(stored.tensors) == set(network.state_dict())
    assert len(stored.origin["sha256"]) == 64
    assert network.image_size == 32
    assert network.latent_dim == 3 * 8 * 8


def test_averaged_weights_are_preferred(compvis_folder):
    stored, _ = load(compvis_folder("vq"))
    name = "model.diffusion_model.time_embed.0.weight"
    found = stored.tensors["unet.model.time_embedding.linear_1.weight"]
    assert torch.equal(found, seeded_tensor(averaged_name(name), found.shape))
    assert not torch.equal(found, seeded_tensor(name, found.shape))


def test_plain_weights_serve_where_there_is_no_average(compvis_folder):
    def change(state):
        for name in [name for name in state if name.startswith("model_ema.")]:
            del state[name]

    stored, _ = load(compvis_folder("vq", change))
    found = stored.tensors["unet.model.conv_in.weight"]
    assert torch.equal(found, seeded_tensor("model.diffusion_model.input_blocks.0.0.weight", found.shape))
    assert any("128 tensors of model.diffusion_model.*" in line for line in stored.report)


def test_measured_scale_is_read(compvis_folder):
    stored, _ = load(compvis_folder("kl"))
    assert stored.arguments["scale_factor"] == pytest.approx(0.21)


FOLLOWS = {
    "ddim_sigmas": (200,),
    "ddim_alphas_prev": (200,),
    "ddim_sqrt_one_minus_alphas": (200,),
    "ddim_sigmas_for_original_num_steps": (1000,),
    "posterior_variance": (1000,),
    "lvlb_weights": (1000,),
    "logvar": (1000,),
    "first_stage_model.loss.perceptual_loss.net.slice1.0.weight": (4, 3, 3, 3),
    "first_stage_model.loss.discriminator.main.0.weight": (4, 3, 3, 3),
    "first_stage_model.model_ema.decay": (),
    "first_stage_model.model_ema.encoderconv_inweight": (4, 3, 3, 3),
    "first_stage_model.quantize.ema_num_batches": (),
    "first_stage_model.quantize.cluster_size": (64,),
    "first_stage_model.colorize": (3, 4, 1, 1),
    "loss.net.weight": (3,),
    "perceptual_loss.lin0.weight": (3,),
    "ema.n_averaged": (),
    "ema.initted": (),
}


def test_values_that_follow_from_the_configuration_are_left_aside_and_told(compvis_folder):
    whole = compvis_folder("kl", lambda state: state.update({n: torch.rand(s) for n, s in FOLLOWS.items()}))
    more = read_compvis(whole.rename(whole.with_name("more")))
    plain = read_compvis(compvis_folder("kl"))
    assert set(more.tensors) == set(plain.tensors)
    assert all(torch.equal(more.tensors[name], value) for name, value in plain.tensors.items())
    report = "\n".join(more.report)
    for name in FOLLOWS:
        told = [line for line in more.report if line.startswith("left aside") and (name in line or any(
            part.endswith("*") and name.startswith(part[:-1]) for part in line.split()))]  # fmt: skip
        assert told, f"{name} in {report}"
    assert "colours for showing label maps: 1 tensors of first_stage_model.colorize*" in report


def without_dots(prefix):
    """How names of averages change when the U-Net is wrapped: LitEma drops the dots."""
    return f"model_ema.diffusion_model{prefix.replace('.', '')}"


@pytest.mark.parametrize("inner", ["", "_orig_mod.", "module."])
@pytest.mark.parametrize("outer", ["", "module.", "module._orig_mod."])
def test_prefixes_of_the_whole_and_of_the_unet_are_taken_off(outer, inner, compvis_folder):
    def change(state):
        for name in list(state):
            new = name
            if inner:
                new = new.replace("model.diffusion_model.", f"model.diffusion_model.{inner}")
                new = new.replace("model_ema.diffusion_model", without_dots(inner))
            state[f"{outer}{new}"] = state.pop(name)

    folder = compvis_folder("vq", change)
    generator = load_generator(folder)
    name = "unet.model.time_embedding.linear_1.weight"
    average = averaged_name("model.diffusion_model.time_embed.0.weight")
    assert torch.equal(generator.state_dict()[name], seeded_tensor(average, generator.state_dict()[name].shape))
    report = "\n".join(generator.report)
    assert (f"prefix {outer} of all" in report) == bool(outer)
    assert (f"prefix {inner} of all 128 tensors of model.diffusion_model.*: taken off" in report) == bool(inner)


def test_refuses_a_missing_scale(compvis_folder):
    with pytest.raises(CheckpointError, match="no tensor 'scale_factor'"):
        read_compvis(compvis_folder("kl", lambda state: state.pop("scale_factor")))


def test_a_folder_may_be_given(compvis_folder):
    assert read_compvis(compvis_folder("vq")).kind == "latent_diffusion"


def test_plain_python_state_in_the_file_is_left_alone(compvis_folder):
    folder = compvis_folder("vq")
    content = torch.load(folder / "model.ckpt", weights_only=True)
    options = argparse.Namespace(gpus="0,")
    torch.save(content | {"hyper_parameters": options, "callbacks": {"x": [1, 2]}}, folder / "model.ckpt")
    assert read_compvis(folder).kind == "latent_diffusion"


LAYER = "first_stage_model.decoder.conv_in.weight"
BROKEN = {
    "missing": (lambda s: s.pop(LAYER), rf"no tensor '{LAYER}'"),
    "missing average": (lambda s: s.pop("model_ema.diffusion_modelout0weight"), "no tensor 'model_ema.diffusion_model"),
    "shape": (lambda s: s.update({LAYER: torch.zeros(1, 2, 3, 3)}), rf"'{LAYER}' of shape \(1, 2, 3, 3\), expected"),
    "codebook": (
        lambda s: s.update({"first_stage_model.quantize.embedding.weight": torch.zeros(8, 3)}),
        r"embedding.weight' of shape \(8, 3\), expected one that gives quantize.embedding.weight of shape \(64, 3\)",
    ),
    "heads": (
        lambda s: s.update({averaged_name("model.diffusion_model.middle_block.1.qkv.weight"): torch.zeros(7, 64, 1)}),
        r"middle_block1qkvweight' of shape \(7, 64, 1\), which does not fit",
    ),
    "unknown": (
        lambda s: s.update({"model.diffusion_model.label_emb.weight": torch.zeros(3)}),
        r"label_emb.*no place for",
    ),
    "levels": (lambda s: s["alphas_cumprod"].mul_(0.9), "noise levels .* not those of the configuration"),
    "first stage alone": (
        lambda s: [s.pop(name) for name in list(s) if "diffusion_model" in name],
        r"no tensor model.diffusion_model.\*",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_refuses_broken_tensors(kind, compvis_folder):
    change, message = BROKEN[kind]
    with pytest.raises(CheckpointError, match=message):
        read_compvis(compvis_folder("vq", change))


EDITS = {
    "cond_stage_config: __is_unconditional__": ("cond_stage_config: {target: x}", "conditional model"),
    "num_res_blocks: 1\n        channel_mult": ("num_res_blocks: 2\n        channel_mult", "no tensor 'model_ema"),
    "n_embed: 64": ("n_embed: 63", r"expected one that gives quantize.embedding.weight of shape \(63, 3\)"),
    "num_head_channels: 16": ("num_classes: 10", "found num_classes=10 in unet_config"),
    "model_channels: 32": ("model_channels: 32\n        rotary: 1", "unknown option 'rotary' in unet_config"),
    "num_res_blocks: 1\n        channel_mult: [1, 2]": (
        "num_res_blocks: one\n        channel_mult: [1, 2]",
        "another type",
    ),
    "        model_channels: 32\n": ("", "no option 'model_channels'"),
    "double_z: false": ("double_z: true", "double_z=True for a vq"),
    "attn_resolutions: []": ("attn_resolutions: []\n          attn_type: linear", "attn_type='linear' in ddconfig"),
    "linear_end: 0.0195": ("linear_end: 0.02", "noise levels"),
    "timesteps: 1000": ("beta_schedule: cosine", "beta_schedule 'cosine', expected one of linear"),
    "ldm.models.autoencoder.VQModelInterface": ("ldm.models.autoencoder.IdentityFirstStage", "found first stage 'ldm"),
    "model:": ("nothing:", "found no latent diffusion model in"),
    "ddconfig:": ("ddconfig: [", "config.yaml"),
}


@pytest.mark.parametrize("text", EDITS)
def test_refuses_other_configurations(text, compvis_folder):
    replacement, message = EDITS[text]
    with pytest.raises(CheckpointError, match=message):
        read_compvis(compvis_folder("vq", edit=lambda content: content.replace(text, replacement)))


def test_refuses_missing_and_truncated_files(compvis_folder):
    folder = compvis_folder("vq")
    with pytest.raises(CheckpointError, match=r"no file .*nothing.ckpt"):
        read_compvis(folder / "nothing.ckpt")
    content = (folder / "model.ckpt").read_bytes()
    (folder / "model.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"model\.ckpt"):
        read_compvis(folder)
    (folder / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"no config.yaml beside .*copy it there"):
        read_compvis(folder)


def test_the_only_other_yaml_file_serves(compvis_folder):
    folder = compvis_folder("vq")
    (folder / "config.yaml").rename(folder / "ffhq-ldm-vq-4.yaml")
    assert read_compvis(folder).kind == "latent_diffusion"
