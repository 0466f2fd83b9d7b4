"""Every shipped source keeps the Generator protocol; a new source is tested by being in the manifest."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
import torch
import yaml

from lightning_modules.common.images import to_uint8
from lightning_modules.generators import load_generator
from lightning_modules.generators.bundled.load import NETWORKS, load_bundled
from lightning_modules.generators.bundled.manifest import (
    MANIFEST_NAME,
    WEIGHTS_FOLDER,
    bundled_sources,
    folder_name,
    manifest_entry,
    read_manifest,
    shipped_images,
)
from lightning_modules.generators.image_writing import BLOCK, synthesize_block
from lightning_modules.generators.protocol import Generator

SOURCES = bundled_sources()
GREY = [source for source in SOURCES if "/" not in source]
COLOUR = [source for source in SOURCES if "/" in source]
LARGE = {"emoji_64/score-ldm", "emoji_64/gan-stylegan2"}  # 64 px, of no data set: for keys
FAMILIES = {"gan", "vae", "flow", "score"}
FIELDS = {
    "family",
    "upsampling",
    "downsampling",
    "normalisation",
    "non_linearity",
    "skip",
    "loss",
    "training_set",
    "seed",
    "steps",
    "licence",
    "weights",
    "sha256",
}
FILES = {"gan-stylegan2", "score-ldm"}  # stored as generator files, which say themselves what to build


@pytest.fixture(scope="module", params=SOURCES)
def source(request):
    return request.param


@pytest.fixture(scope="module")
def generator(source):
    return load_bundled(source)


def test_all_sources_and_families_are_shipped_of_both_sets():
    assert set(GREY) == set(NETWORKS) | FILES
    assert {folder_name(each) for each in {*COLOUR} - LARGE} == set(NETWORKS) | FILES | {"gan-dcgan-seed2"}
    assert set(COLOUR) >= LARGE
    assert set(SOURCES) == {*GREY, *COLOUR}
    assert {manifest_entry(source)[0]["family"] for source in GREY} == FAMILIES


def test_two_seeds_of_one_network_differ_in_nothing_but_the_seed():
    first, second = (manifest_entry(f"emoji/{name}")[0] for name in ("gan-dcgan", "gan-dcgan-seed2"))
    assert second["network"] == "gan-dcgan"
    own = {"seed", "weights", "sha256", "network"}
    assert {key for key in {*first, *second} if first.get(key) != second.get(key)} == own
    images = [load_bundled(f"emoji/{name}").synthesize(torch.randn(8, 64)) for name in ("gan-dcgan", "gan-dcgan-seed2")]
    assert (images[0] - images[1]).abs().mean() > 0.05


def test_manifest_entry_is_complete(source):
    entry, folder = manifest_entry(source)
    assert set(entry) >= FIELDS
    assert folder_name(source).startswith(f"{entry['family']}-")
    assert entry["steps"] > 0
    assert ("arguments" in entry) == (folder_name(source) not in FILES)
    assert hashlib.sha256((folder / entry["weights"]).read_bytes()).hexdigest() == entry["sha256"]
    in_colour = source in COLOUR
    assert entry["training_set"] == f"{source.partition('/')[0] if in_colour else 'fashion'} (train)"
    assert entry["licence"] == ("Apache-2.0" if in_colour else "MIT")


def test_keeps_the_protocol_and_is_frozen(generator):
    assert isinstance(generator, Generator)
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    assert not any(module.training for module in generator.modules())
    assert {p.dtype for p in generator.parameters()} == {torch.float32}


def test_latents_belong_to_seed_and_index_alone(source, generator):
    whole = generator.sample_latents(7, seed=3)
    assert whole.shape == (7, generator.latent_dim)
    assert whole.dtype == torch.float32
    alone = generator.sample_latents(2, seed=3, start=4)
    exact = folder_name(source) not in FILES  # a network that makes latents may round otherwise in another batch
    torch.testing.assert_close(alone, whole[4:6], rtol=0, atol=0.0 if exact else 1e-4)
    assert not torch.equal(generator.sample_latents(7, seed=4), whole)


def test_an_image_belongs_to_its_latent_alone(source, generator):
    latents = generator.sample_latents(4, seed=0)
    together = generator.synthesize(latents)
    assert together.shape == (4, 3, generator.image_size, generator.image_size)
    assert generator.image_size == (64 if source in LARGE else 32)
    assert together.dtype == torch.float32
    torch.testing.assert_close(generator.synthesize(latents), together, rtol=0, atol=0)
    alone = generator.synthesize(latents[2:3])  # a lone image may take another convolution kernel: last bits only
    torch.testing.assert_close(alone[0], together[2], rtol=0, atol=2e-4)


def test_frame_is_exactly_zero_and_colour_is_grey(source, generator):
    if source in COLOUR:
        pytest.skip("has colour and no frame")
    images = generator.synthesize(generator.sample_latents(4, seed=5))
    frame = images.clone()
    frame[:, :, 2:-2, 2:-2] = 0
    assert torch.count_nonzero(frame) == 0
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    assert images[:, :, 2:-2, 2:-2].std() > 0.1  # garments, not a blank


def test_images_in_colour_stand_on_white(source, generator):
    if source in GREY:
        pytest.skip("stands on black")
    images = generator.synthesize(generator.sample_latents(32, seed=5))
    assert (images[:, 0] - images[:, 2]).abs().mean() > 0.03
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.mean() > 0.8
    assert images.mean() < 0.95  # more than ground


def test_images_differ_from_each_other_and_stay_near_the_range(generator):
    images = generator.synthesize(generator.sample_latents(16, seed=6))
    distances = torch.pdist(images[:, 0].flatten(1))
    assert distances.min() > 1.0  # two real garments are about 10 apart
    assert (images > 1.5).float().mean() < 1e-3
    assert (images < -0.5).float().mean() < 1e-3


def test_gradient_reaches_the_latents(generator):
    latents = generator.sample_latents(2, seed=1).requires_grad_(True)
    generator.synthesize(latents)[0].square().sum().backward()
    assert latents.grad is not None
    assert torch.isfinite(latents.grad).all()
    assert latents.grad[0].abs().sum() > 0
    assert torch.count_nonzero(latents.grad[1]) == 0  # the other image's latent has no part in this one


def test_shipped_images_are_what_the_weights_give(source, generator):
    shipped, entry = shipped_images(source, seed=0), manifest_entry(source)[0]
    if "images" not in entry:
        assert len(shipped) == 0
        return
    assert len(shipped) == entry["images"]["n"]
    assert len(shipped_images(source, seed=1)) == 0
    made = synthesize_block(generator, 0, len(shipped) - BLOCK)
    made = made.permute(0, 2, 3, 1).numpy() if source in COLOUR else made[:, 0, 2:-2, 2:-2].numpy()
    difference = np.abs(made.astype(int) - shipped[-BLOCK:].astype(int))
    # another processor adds in another order, and a pixel on the edge between two levels may fall to the other side
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("name", sorted(FILES))
def test_generator_files_load_by_name_as_they_were_trained(name):
    generator = load_generator(name)
    latents = generator.sample_latents(2, seed=0)
    raw, framed = generator.synthesize(latents), load_bundled(name).synthesize(latents)
    torch.testing.assert_close(raw.mean(dim=1)[:, 2:-2, 2:-2], framed[:, 0, 2:-2, 2:-2], rtol=0, atol=1e-5)
    frame = raw.clone()
    frame[:, :, 2:-2, 2:-2] = 0
    assert (
        0 < float(frame.abs().max()) < 0.5
    )  # the network makes the whole image, and has learnt that the frame is dark


def test_changed_weights_are_refused(tmp_path):
    shutil.copytree(WEIGHTS_FOLDER, tmp_path, dirs_exist_ok=True)
    path = tmp_path / read_manifest()["vae-beta-vae"]["weights"]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"found sha256 .* expected .* restore"):
        load_bundled("vae-beta-vae", tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="restore"):
        load_bundled("vae-beta-vae", tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path):
    shutil.copytree(WEIGHTS_FOLDER, tmp_path, dirs_exist_ok=True)
    manifest = read_manifest()
    manifest["vae-beta-vae"]["arguments"]["width"] += 8
    (tmp_path / MANIFEST_NAME).write_text(yaml.safe_dump(manifest))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_bundled("vae-beta-vae", tmp_path)


def test_an_unknown_source_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="gan-dcgan"):
        load_bundled("gan-biggan")
    (tmp_path / MANIFEST_NAME).write_text(yaml.safe_dump({"os-system": read_manifest()["vae-beta-vae"]}))
    shutil.copy(WEIGHTS_FOLDER / read_manifest()["vae-beta-vae"]["weights"], tmp_path)
    with pytest.raises(ValueError, match="expected one of"):  # a manifest cannot name code of its own
        load_bundled("os-system", tmp_path)


def test_to_uint8_clamps_and_rounds_to_the_nearest_level():
    images = torch.tensor([-1.0, -0.001, 0.0, 0.4 / 255, 0.6 / 255, 127.4 / 255, 1.0, 3.0])
    assert to_uint8(images).tolist() == [0, 0, 0, 0, 1, 127, 255, 255]
    levels = torch.arange(256)
    assert torch.equal(to_uint8(levels / 255), levels.to(torch.uint8))
