"""Answers to images without a key: how they are stored, and that the banks that ship belong to their decoders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import mahalanobis

from lightning_modules.common.weights import content_hash
from lightning_modules.fingerprints.degenerate_images import degenerate_images
from lightning_modules.fingerprints.fingerprint import FingerprintError, read_fingerprint
from lightning_modules.fingerprints.unmarked_bank import (
    AXES,
    FILE_NAME,
    SEED,
    latent_distance,
    make_bank,
    read_bank,
    write_bank,
)
from lightning_modules.latent_fingerprint import LatentFingerprint

TRAINED = Path(__file__).parents[2] / "lightning_modules" / "fingerprints" / "trained"
SHIPPED = ("stylegan2", "stylegan2_64", "ldm", "ldm64", "ldm64_corrected", "ldm64_emoji")


def load(name):
    return LatentFingerprint.load_from_checkpoint(TRAINED / name / "checkpoints" / "last.ckpt").eval()


@pytest.fixture(scope="module")
def stylegan2():
    return load("stylegan2")


@pytest.fixture(scope="module")
def made(stylegan2):
    foreign = [("grey square", torch.full((2, 3, 32, 32), 0.5))]
    return make_bank(stylegan2.generator, stylegan2.fingerprint, stylegan2.network, "jpeg_50", 60, foreign)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_bank_ships_with_each_fingerprint(name):
    file = TRAINED / name / FILE_NAME
    assert file.stat().st_size <= 120_000
    module = load(name)
    bank = read_bank(file, read_fingerprint(TRAINED / name / "fingerprint.safetensors").id)
    assert bank.decoder == content_hash(module.network.state_dict())
    assert bank.bits == module.fingerprint.bits
    assert bank.own_images == 1000
    flat = torch.full((1, 3, module.image_size, module.image_size), 127 / 255)
    with torch.no_grad():
        logits, _ = module.network(flat)
    likeness, row = bank.likeness(logits)
    assert bank.names[int(row)].startswith("flat ")
    assert float(likeness) > 0.999


def test_rows_are_what_the_decoder_answers(made, stylegan2):
    assert len(made.names) == len(made.log_odds) == len(set(made.names)) == made.degenerate + 2 + 60
    assert made.names[made.degenerate] == "grey square 0"
    flat = torch.from_numpy(np.full((1, 3, 32, 32), 200, dtype=np.float32) / np.float32(255))
    own = stylegan2.generator.synthesize(stylegan2.generator.sample_latents(1, SEED, 7)).detach().clamp(0, 1)
    rows = ("flat grey 200", flat), ("unmarked image 7 of the generator", own)
    for name, image in rows:
        logits = stylegan2.key_decoder().decode((image * 255).round() / 255).logits[0]
        row = made.log_odds[made.names.index(name)].float()
        assert int(row.abs().max()) == 127
        assert torch.allclose(row / 127, logits / logits.abs().max(), atol=0.6 / 127)


def test_distances_are_those_of_mahalanobis(made, stylegan2):
    generator = torch.Generator().manual_seed(0)
    alpha = torch.randn(4, 96, generator=generator)
    inverse = (made.alpha_whitening.double().T @ made.alpha_whitening.double()).numpy()
    mean = made.alpha_mean.double().numpy()
    expected = [mahalanobis(row[:AXES], mean, inverse) / AXES**0.5 for row in alpha.double().numpy()]
    assert made.alpha_distance(alpha).tolist() == pytest.approx(expected)
    fingerprint = stylegan2.fingerprint
    axes, deviations = fingerprint.other_axes[:AXES].double(), fingerprint.other_deviation[:AXES].double()
    latents = fingerprint.mean + (alpha[:, :AXES].double() * deviations) @ axes
    expected = alpha[:, :AXES].double().square().mean(dim=1).sqrt()
    assert latent_distance(latents, fingerprint).tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    own = latent_distance(stylegan2.generator.sample_latents(60, SEED), fingerprint)
    assert made.farthest_latent == pytest.approx(float(own.max()), rel=1e-5)
    assert 0.5 < float(own.median()) < 1.5


def test_a_bank_comes_back_as_it_was_written(made, tmp_path):
    write_bank(made, tmp_path / FILE_NAME)
    back = read_bank(tmp_path / FILE_NAME, made.fingerprint)
    for name, value in vars(made).items():
        same = (
            torch.equal(value, getattr(back, name)) if isinstance(value, torch.Tensor) else value == getattr(back, name)
        )
        assert same, name


def test_a_bank_that_cannot_be_used_is_refused(made, tmp_path):
    path = tmp_path / FILE_NAME
    with pytest.raises(FingerprintError, match="found no file"):
        read_bank(path)
    write_bank(made, path)
    with pytest.raises(FingerprintError, match=r"found a bank for the fingerprint .* expected one for 0123"):
        read_bank(path, "0123")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FingerprintError, match="truncated or damaged"):
        read_bank(path)
    path.write_bytes(whole)
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(FingerprintError, match="found no bank of version 1"):
        read_bank(path)
    for broken in (replace(made, names=made.names[:-1]), replace(made, log_odds=made.log_odds.float())):
        write_bank(broken, path)
        with pytest.raises(FingerprintError, match="found a damaged bank"):
            read_bank(path)
    about = {"format": "manifold-fingerprints unmarked bank", "version": 1}
    save_file(tensors, path, metadata={"manifest": json.dumps(about)})
    with pytest.raises(FingerprintError, match="found a damaged bank"):
        read_bank(path)


def test_too_few_own_images_are_refused(stylegan2):
    with pytest.raises(ValueError, match="found 3 of the generator's own images, expected at least 4"):
        make_bank(stylegan2.generator, stylegan2.fingerprint, stylegan2.network, "identity", 3)


@pytest.mark.parametrize("size", [16, 32])
def test_images_that_show_nothing_are_the_same_at_every_call(size):
    names, images = zip(*degenerate_images(size), strict=True)
    assert len(set(names)) == len(names) > 500
    stacked = torch.stack(images)
    assert stacked.shape[1:] == (3, size, size)
    assert torch.equal(stacked, torch.stack([image for _, image in degenerate_images(size)]))
    assert torch.equal((stacked * 255).round() / 255, stacked)  # as files of 8 bits hold them
    greys = stacked[:256].flatten(1)
    assert torch.equal(greys.amin(dim=1), greys.amax(dim=1))
    assert torch.equal((greys[:, 0] * 255).round(), torch.arange(256.0))
