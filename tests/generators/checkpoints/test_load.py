"""One loader recognises every format by its content, gives the same generator from each, and refuses the rest."""

from __future__ import annotations

import functools
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from compvis_checkpoints import GOLDEN, SMALL, compvis_state
from public_files import nvidia_state, rosinality_state, write_nvidia, write_rosinality
from safetensors.torch import save_file
from seeded import seeded_tensor

from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints import load as load_module
from lightning_modules.generators.checkpoints.load import read_generator, recognise
from lightning_modules.generators.checkpoints.own_file import write_generator
from lightning_modules.generators.checkpoints.stored import CheckpointError, build
from lightning_modules.generators.latent_diffusion import LatentDiffusionGenerator
from lightning_modules.generators.protocol import Generator

FORMATS = {
    "rosinality": "stylegan2",
    "stylegan2-ada-pytorch": "stylegan2",
    "compvis": "latent_diffusion",
    "diffusers": "latent_diffusion",
    "own": "stylegan2",
}
FEW = {"latent_diffusion": {"steps": 2}}


def write(form, folder):
    """A checkpoint of a format, under a name that does not give the format away where it need not."""
    folder.mkdir(parents=True, exist_ok=True)
    if form == "rosinality":
        return write_rosinality(folder / "checkpoint.bin", rosinality_state(16, 8))
    if form == "stylegan2-ada-pytorch":
        return write_nvidia(folder / "checkpoint.bin", nvidia_state(16, 8))
    if form == "compvis":
        torch.save({"state_dict": compvis_state("vq"), "epoch": 3}, folder / "last.ckpt")
        shutil.copy(GOLDEN / "vq.yaml", folder / "config.yaml")
        return folder / "last.ckpt"
    if form == "diffusers":
        from diffusers import DDIMScheduler

        network = LatentDiffusionGenerator(**json.loads(json.dumps(SMALL)))
        network.load_state_dict({name: seeded_tensor(name, v.shape) for name, v in network.state_dict().items()})
        network.first_stage.model.save_pretrained(folder / "ldm" / "vqvae")
        network.unet.model.save_pretrained(folder / "ldm" / "unet")
        DDIMScheduler(**network.scheduler).save_pretrained(folder / "ldm" / "scheduler")
        return folder / "ldm"
    write_generator(read_generator(write("rosinality", folder)), folder / "own.safetensors")
    return folder / "own.safetensors"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint of a format, written once; not to be changed."""
    return functools.cache(lambda form: write(form, tmp_path_factory.mktemp(form)))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_recognised_by_its_content(form, written, caplog):
    path = written(form)
    assert recognise(path) == form
    with caplog.at_level(logging.INFO):
        generator = load_generator(path)
    assert isinstance(generator, Generator)
    assert generator.kind == FORMATS[form]
    assert len(generator.origin["sha256"]) == 64
    assert generator.origin["file"] == (path.name if form != "own" else "checkpoint.bin")
    assert generator.report
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == list(generator.report)
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert not any(module.training for module in generator.modules())
    images = generator.configure(**FEW.get(generator.kind, {})).synthesize(generator.sample_latents(2, seed=0))
    assert images.shape == (2, 3, generator.image_size, generator.image_size)
    assert images.isfinite().all()


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "own"])
def test_converted_generators_give_the_same_bits(form, written, tmp_path):
    path = written(form)
    write_generator(read_generator(path), tmp_path / "a.safetensors")
    few = FEW.get(FORMATS[form], {})
    one, other = load_generator(str(path), **few), load_generator(tmp_path / "a.safetensors", **few)
    assert one.origin == other.origin
    z = one.sample_latents(2, seed=1)
    assert torch.equal(z, other.sample_latents(2, seed=1))
    assert torch.equal(one.synthesize(z), other.synthesize(z))


def test_a_text_conditional_folder_takes_prompts_with_it(tmp_path):
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4}
    UNet2DConditionModel(
        sample_size=4,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=6,
        attention_head_dim=2,
        **sizes,
    ).save_pretrained(tmp_path / "unet")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        **sizes,
    ).save_pretrained(tmp_path / "vae")
    DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(tmp_path / "scheduler")
    with pytest.raises(CheckpointError, match="prompt"):
        load_generator(tmp_path)
    prompts = {"prompt_embeds": torch.randn(3, 5, 6), "negative_prompt_embeds": torch.randn(1, 5, 6)}
    save_file(prompts, tmp_path / "prompts.safetensors")
    given = {"prompt_embeddings": tmp_path / "prompts.safetensors"}
    one = load_generator(tmp_path, steps=2, guidance=3.0, **given)
    write_generator(read_generator(tmp_path, **given), tmp_path / "a.safetensors")
    other = load_generator(tmp_path / "a.safetensors", steps=2, guidance=3.0)
    images = one.synthesize(one.sample_latents(2, seed=0))
    assert images.shape == (2, 3, 8, 8)
    assert torch.equal(images, other.synthesize(other.sample_latents(2, seed=0)))


def test_options_reach_the_generator_and_the_reader(written, tmp_path):
    path = written("rosinality")
    assert load_generator(path, truncation=0.5, noise="none").truncation == 0.5
    with pytest.raises(ValueError, match="'steps' for StyleGAN2"):
        load_generator(path, steps=3)
    alone = tmp_path / "last.ckpt"
    alone.symlink_to(written("compvis"))
    with pytest.raises(CheckpointError, match=r"no config\.yaml beside"):
        load_generator(alone)
    assert load_generator(alone, config=written("compvis").with_name("config.yaml"), steps=3).steps == 3
    with pytest.raises(CheckpointError, match="found option 'steps', which the reader"):
        read_generator(path, steps=3)


def test_the_kind_may_be_demanded(written):
    path = written("rosinality")
    assert load_generator(path, kind="stylegan2").kind == "stylegan2"
    with pytest.raises(CheckpointError, match="found a stylegan2 generator, expected latent_diffusion"):
        load_generator(path, kind="latent_diffusion")
    with pytest.raises(CheckpointError, match="found kind 'gan'; expected one of auto, stylegan2, latent_diffusion"):
        load_generator(path, kind="gan")


def test_bundled_generator_files_are_known_by_name(tmp_path, monkeypatch):
    write("own", tmp_path)
    files = {"weights": "own.safetensors"}
    manifest = {"gan-stylegan2": files, "gan-dcgan": {"arguments": {}}, "emoji/gan-stylegan2": files}
    monkeypatch.setattr(load_module, "bundled_sources", lambda: list(manifest))
    monkeypatch.setattr(load_module, "manifest_entry", lambda name: (manifest[name], tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("gan-stylegan2", "emoji/gan-stylegan2"):  # the latter is no repository of the hub
        assert load_generator(name, truncation=0.7).truncation == 0.7
    with pytest.raises(CheckpointError, match="weights of a small network and no generator file"):
        load_generator("gan-dcgan")
    with pytest.raises(CheckpointError, match="did you mean gan-stylegan2"):
        load_generator("gan-stylegan3")


def test_a_missing_file_is_answered_with_its_neighbours(tmp_path):
    (tmp_path / "network-snapshot.pkl").touch()
    with pytest.raises(CheckpointError, match=r"found no .*_snapshot\.pkl; did you mean .*-snapshot\.pkl"):
        load_generator(tmp_path / "network_snapshot.pkl")
    with pytest.raises(CheckpointError, match=r"found no nowhere/at/all; expected a StyleGAN2 \.pt of rosinality"):
        load_generator("nowhere/at/all")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}, "epoch": 3}, r"found 2 entries \(model, epoch\); expected a StyleGAN2"),
        ({"state_dict": {"fc.weight": torch.ones(1)}}, r"its state_dict with 1 entries \(fc\.weight\)"),
        ([torch.ones(1)], "found a pickled list"),
        ({"g_ema": torch.nn.Linear(2, 2)}, r"g_ema that is a pickled torch\.nn\.modules\.linear\.Linear"),
        ({f"layer{i}": torch.ones(1) for i in range(30)}, r"30 entries \(layer0, .*layer7, \.\.\.\)"),
    ],
)
def test_unknown_contents_are_described(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_generator(tmp_path / "a.pt")
    assert str(caught.value).startswith("a.pt: ")


def test_unknown_folders_are_described(tmp_path):
    with pytest.raises(CheckpointError, match="with nothing; expected a diffusers folder"):
        load_generator(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"with notes\.txt; expected"):
        load_generator(tmp_path)


def test_a_part_of_a_diffusers_folder_is_not_the_whole(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    save_file({"weight": torch.ones(1)}, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match="one file of a diffusers folder; give the folder itself"):
        load_generator(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("form", ["rosinality", "stylegan2-ada-pytorch", "own"])
def test_truncated_files_are_refused(form, tmp_path):
    path = write(form, tmp_path)
    whole = path.read_bytes()
    for part in (0.2, 0.5, 0.99):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(CheckpointError, match="truncated"):
            load_generator(path)


class Command:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_a_file_that_holds_code_is_refused_by_the_name_of_the_function(tmp_path):
    torch.save({"g_ema": rosinality_state(16, 8), "args": Command()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"found the global '{os.system.__module__}\.system'"):
        load_generator(tmp_path / "a.pt")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": Command()}))
    with pytest.raises(CheckpointError, match=rf"found the global '{os.system.__module__}\.system'"):
        load_generator(tmp_path / "a.pkl")


@pytest.fixture(scope="module")
def stored(written):
    return read_generator(written("rosinality"))


def test_tensors_that_do_not_fit_are_named(stored):
    names = list(stored.tensors)
    without = {name: value for name, value in stored.tensors.items() if name != names[3]}
    with pytest.raises(CheckpointError, match=f"1 missing: {names[3]};"):
        build(replace(stored, tensors=without))
    with pytest.raises(CheckpointError, match="1 not expected: spare;"):
        build(replace(stored, tensors=stored.tensors | {"spare": torch.ones(1)}))
    other = stored.tensors | {"mapping.mean": torch.ones(9)}
    with pytest.raises(CheckpointError, match=r"1 of another shape: mapping\.mean \(found \(9,\), expected \(8,\)\)"):
        build(replace(stored, tensors=other))
    with pytest.raises(CheckpointError, match=r"1 not finite: mapping\.mean"):
        build(replace(stored, tensors=stored.tensors | {"mapping.mean": torch.full((8,), torch.nan)}))
    with pytest.raises(CheckpointError, match=rf"{len(names)} missing: .* and {len(names) - 8} more"):
        build(replace(stored, tensors={}))


def test_arguments_that_do_not_fit_are_refused(stored):
    with pytest.raises(CheckpointError, match=r"describe no stylegan2 generator: .*33"):
        build(replace(stored, arguments={**stored.arguments, "image_size": 33}))
    with pytest.raises(CheckpointError, match=r"describe no stylegan2 generator: .*colour"):
        build(replace(stored, arguments={**stored.arguments, "colour": 1}))
    with pytest.raises(CheckpointError, match="found kind of generator 'os:system'; expected one of stylegan2"):
        build(replace(stored, kind="os:system"))


def test_importing_the_package_does_not_import_the_loader():
    code = (
        "import sys, lightning_modules.generators as g; assert not any('checkpoints' in name for name in sys.modules);"
        "g.load_generator; assert 'diffusers' not in sys.modules and 'pytorch_lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
