"""Folders that diffusers writes give what its own pipelines give; incomplete ones are refused."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LDMPipeline,
    PNDMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from safetensors.torch import load_file, save_file
from seeded import seeded_tensor

from lightning_modules.common.random_streams import standard_normal_latents
from lightning_modules.generators.checkpoints.stored import CheckpointError
from lightning_modules.generators.latent_diffusion import LatentDiffusionGenerator
from lightning_modules.generators.latent_diffusion.diffusers_folder import read_diffusers

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
STAGE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
}


def fill(network):
    network.load_state_dict({name: seeded_tensor(name, value.shape) for name, value in network.state_dict().items()})
    return network.eval()


@pytest.fixture
def parts(small_arguments):
    """An unconditional model as diffusers' own objects."""
    stage = fill(VQModel(**STAGE, latent_channels=3, num_vq_embeddings=16, scaling_factor=0.5))
    unet = fill(UNet2DModel(**small_arguments["unet"]["config"]))
    return {"vqvae": stage, "unet": unet, "scheduler": DDIMScheduler(clip_sample=False, **BETAS)}


@pytest.fixture
def folder(parts, tmp_path):
    for name, part in parts.items():
        part.save_pretrained(tmp_path / "ldm" / name)
    return tmp_path / "ldm"


@pytest.fixture
def text_folder(tmp_path):
    """A text-conditional model with embeddings of three prompts, as diffusers writes it."""
    root = tmp_path / "stable"
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=6,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    fill(unet).save_pretrained(root / "unet")
    fill(AutoencoderKL(**STAGE, latent_channels=4)).save_pretrained(root / "vae")
    PNDMScheduler(skip_prk_steps=True, steps_offset=1, **BETAS).save_pretrained(root / "scheduler")
    embeddings = {
        "prompt_embeds": seeded_tensor("input.prompts", (3, 5, 6)),
        "negative_prompt_embeds": seeded_tensor("input.empty", (1, 5, 6)),
    }
    save_file(embeddings, root / "prompt_embeddings.safetensors")
    return root


def load(path, **options):
    stored = read_diffusers(path, **options)
    json.dumps(stored.arguments, allow_nan=False)  # plain values
    network = LatentDiffusionGenerator(**stored.arguments)
    network.load_state_dict(stored.tensors, strict=True)
    return stored, network.freeze()


def edit(path, **changes):
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "remove"}))


def test_gives_the_images_of_the_pipeline(folder, parts, monkeypatch):
    stored, generator = load(folder)
    noise = standard_normal_latents(2, 192, seed=0).view(2, 3, 8, 8)
    module = __import__(LDMPipeline.__module__, fromlist=["randn_tensor"])
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise.clone())
    pipeline = LDMPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(batch_size=2, num_inference_steps=7, output_type="np").images
    found = generator.configure(steps=7).synthesize(generator.sample_latents(2, seed=0))
    torch.testing.assert_close(found.clamp(0, 1).permute(0, 2, 3, 1), torch.from_numpy(expected), atol=1e-6, rtol=0)
    assert stored.arguments["scale_factor"] == 0.5
    assert "scale of the latents: 0.5, from the config" in stored.report
    assert stored.kind == "latent_diffusion"
    assert stored.origin["format"] == "diffusers"


def test_a_vq_stage_without_a_written_scale_has_scale_one(folder):
    edit(folder / "vqvae" / "config.json", scaling_factor="remove")
    stored, _ = load(folder)
    assert stored.arguments["scale_factor"] == 1.0
    assert any(line.startswith("scale of the latents: 1.0, the default of a vq") for line in stored.report)


def test_reads_pickled_halved_and_sharded_weights(folder):
    expected, _ = load(folder)
    plain = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(plain)
    plain.unlink()

    torch.save(tensors, folder / "vqvae" / "diffusion_pytorch_model.bin")
    assert same(load(folder)[0].tensors, expected.tensors)

    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / "vqvae" / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "vqvae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert same(load(folder)[0].tensors, expected.tensors)

    halves = {name: tensor.half() for name, tensor in tensors.items()}
    save_file(halves, folder / "vqvae" / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "vqvae" / "diffusion_pytorch_model.safetensors.index.json").unlink()
    stored, _ = load(folder)
    assert all(tensor.dtype == torch.float32 for tensor in stored.tensors.values())
    assert same({k: v.half() for k, v in stored.tensors.items()}, {k: v.half() for k, v in expected.tensors.items()})


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_reads_the_older_names_of_attention(folder):
    expected, _ = load(folder)
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part in ("vqvae", "unet"):
        path = folder / part / "diffusion_pytorch_model.safetensors"
        tensors = {}
        for name, tensor in load_file(path).items():
            for new, old in renamed.items():
                if f".{new}." in name:
                    name = name.replace(f".{new}.", f".{old}.")
                    tensor = tensor[:, :, None, None].contiguous() if tensor.ndim == 2 and part == "vqvae" else tensor
            tensors[name] = tensor
        save_file(tensors, path)
    assert same(load(folder)[0].tensors, expected.tensors)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_follows_its_prompts_with_guidance(text_folder, guidance):
    """The chain of a text-to-image pipeline, written out with the library's parts."""
    stored, generator = load(text_folder)
    assert stored.arguments["guidance"] == 7.5
    assert stored.arguments["scale_factor"] == pytest.approx(0.18215)
    generator.configure(steps=3, guidance=guidance)
    unet = UNet2DConditionModel.from_pretrained(text_folder / "unet")
    vae = AutoencoderKL.from_pretrained(text_folder / "vae")
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **BETAS)
    scheduler.set_timesteps(3)
    prompts = seeded_tensor("input.prompts", (3, 5, 6))[[2, 0, 1, 2]]  # samples 2 .. 5 of three prompts
    empty = seeded_tensor("input.empty", (1, 5, 6)).expand_as(prompts)
    x = standard_normal_latents(4, 64, seed=9, start=2).view(4, 4, 4, 4)
    with torch.no_grad():
        for time in scheduler.timesteps:
            guided = unet(x, time, encoder_hidden_states=prompts).sample
            free = unet(x, time, encoder_hidden_states=empty).sample
            x = scheduler.step(free + guidance * (guided - free), time, x).prev_sample
        images = vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5
    latents = generator.sample_latents(4, seed=9, start=2)
    torch.testing.assert_close(latents, x.flatten(1), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(generator.synthesize(latents), images, atol=1e-3, rtol=1e-4)
    single = torch.cat([generator.sample_latents(1, seed=9, start=i) for i in range(2, 6)])
    torch.testing.assert_close(single, latents, atol=1e-3, rtol=1e-4)  # the prompt is the sample's own
    assert any("sampled by DDIM" in line for line in stored.report)


def test_embeddings_may_lie_elsewhere(text_folder, tmp_path):
    elsewhere = tmp_path / "mine.safetensors"
    (text_folder / "prompt_embeddings.safetensors").rename(elsewhere)
    stored, _ = load(text_folder, prompt_embeddings=elsewhere)
    assert stored.arguments["unet"]["prompts"] == [3, 5, 6]


def test_refuses_missing_prompts(text_folder):
    path = text_folder / "prompt_embeddings.safetensors"
    save_file({"prompt_embeds": torch.zeros(3, 5, 7), "negative_prompt_embeds": torch.zeros(1, 5, 7)}, path)
    with pytest.raises(CheckpointError, match=r"found prompt_embeds \(3, 5, 7\) .* tokens of width 6"):
        read_diffusers(text_folder)
    save_file({"prompt_embeds": torch.zeros(3, 5, 6)}, path)
    with pytest.raises(CheckpointError, match="found no negative_prompt_embeds"):
        read_diffusers(text_folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no prompts, expected prompt_embeddings.safetensors or prompts.txt"):
        read_diffusers(text_folder)
    (text_folder / "prompts.txt").write_text("a shoe\n\na bag\n")
    with pytest.raises(CheckpointError, match=r"found no .*tokenizer, expected it there to encode prompts"):
        read_diffusers(text_folder)


def test_encoding_needs_transformers(text_folder, monkeypatch):
    for part in ("tokenizer", "text_encoder"):
        (text_folder / part).mkdir()
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"no package transformers, .* install it, or put prompt_embeddings"):
        read_diffusers(text_folder, prompts=["a shoe"])


def test_refuses_incomplete_folders(folder):
    index = folder / "scheduler" / "scheduler_config.json"
    EulerDiscreteScheduler(**BETAS).save_pretrained(folder / "scheduler")
    assert load(folder)[0].arguments["scheduler"]["clip_sample"] is False  # that scheduler has no such option
    edit(index, beta_start="remove")
    with pytest.raises(CheckpointError, match="scheduler 'EulerDiscreteScheduler' without beta_start"):
        read_diffusers(folder)
    index.write_text("{")
    with pytest.raises(CheckpointError, match=r"scheduler_config.json unreadable"):
        read_diffusers(folder)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"found no .*scheduler_config.json"):
        read_diffusers(folder)
    (folder / "vqvae").rename(folder / "first")
    with pytest.raises(CheckpointError, match="found neither vqvae nor vae"):
        read_diffusers(folder)


CONFIGS = {
    "class": ("vqvae", {"_class_name": "AutoencoderDC"}, "found class 'AutoencoderDC' .* expected VQModel or Auto"),
    "option": ("unet", {"rotary": True}, "found option 'rotary' .* UNet2DModel of diffusers .* does not know"),
    "classes": ("unet", {"num_class_embeds": 10}, "found num_class_embeds=10"),
    "size": ("unet", {"sample_size": [8, 4]}, r"found sample_size \[8, 4\]"),
    "channels": ("unet", {"in_channels": 4}, "make no network: found a U-Net for 4 channels"),
    "layers": ("unet", {"layers_per_block": 2}, "no tensor 'down_blocks.0.resnets.1"),
    "fewer codes": ("vqvae", {"num_vq_embeddings": 8}, r"quantize.embedding.weight' of shape \(16, 3\), expected"),
    "whole": ("vqvae", {"block_out_channels": "remove"}, "no block_out_channels"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_refuses_other_configurations(case, folder):
    part, changes, message = CONFIGS[case]
    edit(folder / part / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_diffusers(folder)


def test_refuses_broken_weights(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"extra.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"found tensor 'extra.weight' and 0 others"):
        read_diffusers(folder)
    save_file({name: value for name, value in tensors.items() if name != "conv_in.bias"}, path)
    with pytest.raises(CheckpointError, match=r"no tensor 'conv_in.bias'"):
        read_diffusers(folder)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"unreadable: .* whole safetensors file"):
        read_diffusers(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"found no diffusion_pytorch_model.safetensors in .*unet"):
        read_diffusers(folder)
    torch.save({"a": torch.nn.Linear(1, 1)}, path.with_suffix(".bin"))
    with pytest.raises(CheckpointError):
        read_diffusers(folder)


def test_a_schedule_that_diffusers_does_not_know_names_the_file(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "beta_schedule": "foo"}))
    with pytest.raises(CheckpointError, match=r"scheduler_config\.json: found values that diffusers cannot use .*foo"):
        read_diffusers(folder)
