"""Weights of a diffusers folder in every layout that diffusers writes give the same tensors, part by part."""

from __future__ import annotations

import itertools
import json
import re

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel, VQModel
from safetensors.torch import load_file, save_file
from seeded import seeded_tensor

from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.stored import CheckpointError
from lightning_modules.generators.latent_diffusion.diffusers_folder import read_diffusers
from lightning_modules.generators.latent_diffusion.diffusers_weights import weight_files

NAME = "diffusion_pytorch_model"
STAGE = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
}
PARTS = ("unet", "vqvae")


@pytest.fixture(scope="module")
def models(small_unet):
    stage = VQModel(**STAGE, latent_channels=3, num_vq_embeddings=16, scaling_factor=0.5)
    unet = UNet2DModel(**small_unet)
    for network in (stage, unet):
        state = {name: seeded_tensor(name, value.shape).half().float() for name, value in network.state_dict().items()}
        network.load_state_dict(state)  # values that half precision holds
    return {"vqvae": stage, "unet": unet, "scheduler": DDIMScheduler(clip_sample=False)}


@pytest.fixture(scope="module")
def small_unet():
    from compvis_checkpoints import SMALL

    return json.loads(json.dumps(SMALL["unet"]["config"]))


@pytest.fixture(scope="module")
def expected(models, tmp_path_factory):
    return read_diffusers(write(tmp_path_factory.mktemp("whole"), models)).tensors


def write(root, models, safe=True, variant=None, shards=False):
    """A folder as diffusers itself writes it."""
    for name, model in models.items():
        if name == "scheduler":
            model.save_pretrained(root / name)
            continue
        size = f"{sum(v.nbytes for v in model.state_dict().values()) // 1000 // 3}KB" if shards else "10GB"
        half = type(model).from_config(model.config)
        half.load_state_dict(model.state_dict())
        half = half.half() if variant == "fp16" else half
        half.save_pretrained(root / name, safe_serialization=safe, variant=variant, max_shard_size=size)
    return root


LAYOUTS = list(itertools.product((True, False), (None, "fp16", "bf16", "non_ema"), (True, False)))


@pytest.mark.parametrize(("safe", "variant", "shards"), LAYOUTS)
def test_every_layout_that_diffusers_writes_is_read(safe, variant, shards, models, expected, tmp_path):
    root = write(tmp_path, models, safe, variant, shards)
    files = sorted(path.name for path in (root / "unet").iterdir())
    assert any("-of-" in name for name in files) == shards
    assert all((variant or "model") in name for name in files if name != "config.json")
    stored = read_diffusers(root)
    assert set(stored.tensors) == set(expected)
    for name, value in expected.items():
        assert stored.tensors[name].dtype == torch.float32
        assert torch.equal(stored.tensors[name], value)
    report = "\n".join(stored.report)
    suffix = "safetensors" if safe else "bin"
    for part in PARTS:
        assert re.search(rf"{part}: \d+ tensors of {NAME}\S*{suffix}\S*", report)
    assert (" shards" in report) == shards
    assert ("half precision" in report) == (variant == "fp16")
    assert ("variant non_ema" in report) == (variant == "non_ema")


def test_older_and_newer_names_of_variants_are_known_and_the_order_is_kept():
    names = [
        f"{NAME}.non_ema.safetensors", f"{NAME}.bin", f"{NAME}.fp16.bin", f"{NAME}.bin.index.json",
        f"{NAME}.fp16.safetensors", f"{NAME}.safetensors", f"{NAME}.safetensors.index.json",
        f"{NAME}.safetensors.index.fp16.json", f"{NAME}.fp16.safetensors.index.json",
    ]  # fmt: skip
    others = [
        "config.json", f"{NAME}-00001-of-00002.safetensors", f"{NAME}.fp16-00001-of-00002.safetensors",
        f"{NAME}.msgpack", "model.safetensors", "README.md", f"{NAME}.safetensors.json", NAME,
    ]  # fmt: skip
    found = [file.name for file in weight_files([*others, *names])]
    assert sorted(found) == sorted(names)
    assert found[:3] == [f"{NAME}.safetensors", f"{NAME}.safetensors.index.json", f"{NAME}.fp16.safetensors"]
    assert found.index(f"{NAME}.fp16.safetensors") < found.index(f"{NAME}.bin") < found.index(f"{NAME}.fp16.bin")
    assert found[-1] == f"{NAME}.non_ema.safetensors"


def test_the_preferred_file_is_read_and_the_others_are_named(models, expected, tmp_path):
    root = write(tmp_path, models)
    tensors = load_file(root / "unet" / f"{NAME}.safetensors")
    save_file(
        {name: torch.zeros_like(value) for name, value in tensors.items()}, root / "unet" / f"{NAME}.fp16.safetensors"
    )
    torch.save(tensors, root / "unet" / f"{NAME}.bin")
    stored = read_diffusers(root)
    assert all(torch.equal(stored.tensors[name], value) for name, value in expected.items())
    assert f"left aside: {NAME}.fp16.safetensors, {NAME}.bin" in "\n".join(stored.report)


@pytest.mark.parametrize("safe", [True, False])
def test_a_missing_shard_is_named(safe, models, tmp_path):
    root = write(tmp_path, models, safe, None, shards=True)
    shards = sorted(path for path in (root / "unet").iterdir() if "-of-" in path.name)
    shards[1].unlink()
    index = f"{NAME}.{'safetensors' if safe else 'bin'}.index.json"
    numbers = f"unet: found {len(shards) - 1} of the {len(shards)} shards that {index} names"
    with pytest.raises(CheckpointError, match=re.escape(f"{numbers}, missing {shards[1].name}; fetch it")):
        read_diffusers(root)
    (root / "unet" / index).write_text("{}")
    with pytest.raises(CheckpointError, match=f"found no weight_map in {re.escape(index)}"):
        read_diffusers(root)


@pytest.mark.parametrize("part", PARTS)
def test_where_none_can_be_read_the_files_that_lie_there_are_named(part, models, tmp_path):
    root = write(tmp_path, models)
    (root / part / f"{NAME}.safetensors").rename(root / part / "diffusion_flax_model.msgpack")
    (root / part / "model.onnx").touch()
    message = rf"found no {NAME}\.safetensors in .*{part}, .*; there lie diffusion_flax_model\.msgpack, model\.onnx$"
    with pytest.raises(CheckpointError, match=message):
        read_diffusers(root)
    for name in ("diffusion_flax_model.msgpack", "model.onnx"):
        (root / part / name).unlink()
    with pytest.raises(CheckpointError, match="there are no weights of another kind either"):
        read_diffusers(root)


def test_a_damaged_file_is_named_with_those_beside_it(models, tmp_path):
    root = write(tmp_path, models)
    path = root / "unet" / f"{NAME}.safetensors"
    save_file(load_file(path), root / "unet" / f"{NAME}.fp16.safetensors")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(CheckpointError, match=rf"found a Git LFS pointer.*; beside it lie {NAME}\.fp16\.safetensors"):
        read_diffusers(root)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_that_all_tensors_of_a_part_share_are_taken_off(prefix, models, expected, tmp_path):
    root = write(tmp_path, models)
    for part in PARTS:
        path = root / part / f"{NAME}.safetensors"
        save_file({f"{prefix}{name}": value for name, value in load_file(path).items()}, path)
    generator = load_generator(root)
    found = generator.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    report = "\n".join(generator.report)
    assert all(re.search(rf"{part}: prefix {re.escape(prefix)} of all \d+ tensors", report) for part in PARTS)


def test_bookkeeping_of_an_average_is_left_aside(models, expected, tmp_path):
    """diffusers' EMAModel writes its counters into the config of the network it averages."""
    from diffusers.training_utils import EMAModel

    root = write(tmp_path, models)
    average = EMAModel(models["unet"].parameters(), model_cls=UNet2DModel, model_config=models["unet"].config)
    average.save_pretrained(root / "unet_ema")
    generator = load_generator(root)
    assert "left aside: unet_ema" in "\n".join(generator.report)
    for path in (root / "unet").iterdir():
        path.unlink()
    (root / "unet").rmdir()
    (root / "unet_ema").rename(root / "unet")
    generator = load_generator(root)
    assert all(torch.equal(generator.state_dict()[name], value) for name, value in expected.items())
    assert re.search(
        r"unet: left aside, bookkeeping of the average: decay, .*optimization_step", "\n".join(generator.report)
    )


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.fp16.safetensors"])
def test_a_text_encoder_may_have_any_layout_too(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    from lightning_modules.generators.latent_diffusion.prompts import encode_prompts

    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "shoe</w>", "a", "s", "h", "o", "e"]
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tmp_path / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    settings = {"model_max_length": 5, "tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"}
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    config = transformers.CLIPTextConfig(
        vocab_size=9, hidden_size=6, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=5, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = transformers.CLIPTextModel(config).half().float().eval()
    config.save_pretrained(tmp_path / "text_encoder")
    state = {n if n.startswith("text_model.") else f"text_model.{n}": v for n, v in encoder.state_dict().items()}
    state = {n: v.half().contiguous() if "fp16" in name else v.contiguous() for n, v in state.items()}
    path = tmp_path / "text_encoder" / name
    torch.save(state, path) if name.endswith(".bin") else save_file(state, path)
    embeds, negative, lines = encode_prompts(tmp_path, ["a"])
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = tokenizer(["", "a"], padding="max_length", max_length=5, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = encoder(ids).last_hidden_state
    torch.testing.assert_close(torch.cat([negative, embeds]), wanted)
    assert lines[0].startswith(f"text_encoder: {len(state)} tensors of {name}")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"found no model\.safetensors in .*text_encoder"):
        encode_prompts(tmp_path, ["a"])
