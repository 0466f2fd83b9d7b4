"""Inversion: Adam against torch's, restarts, early dropping, simulated attacks, keys read back from 8-bit images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from smooth_generator import BITS, Smooth

from lightning_modules.common.images import to_uint8
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.decoders.inversion import (
    InversionDecoder,
    InversionSettings,
    Rows,
    _best_rows,
    latin_hypercube,
)
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.fingerprint import make_fingerprint
from lightning_modules.fingerprints.layouts import place_key


@pytest.fixture(scope="module")
def generator():
    return Smooth()


@pytest.fixture(scope="module")
def fingerprint(generator):
    latents = generator.sample_latents(2000, seed=1)
    placed = place_key(lambda: latents.split(500), 16, BITS, -BITS)
    return make_fingerprint(placed, 1.0, -BITS, "flat", "hash", "g")


@pytest.fixture(scope="module")
def marked(generator, fingerprint):
    keys = seeded_keys(4, BITS, seed=5)
    images = generator.synthesize(fingerprint.embed(generator.sample_latents(4, seed=2), keys))
    return to_uint8(images).float() / 255, keys


def decoder(generator, fingerprint, attack=None, **settings) -> InversionDecoder:
    fast = {"starts": 4, "steps": 150, "learning_rate": 0.2, "whitened": True, "decay": 0.01} | settings
    return InversionDecoder(generator.synthesize, fingerprint, make_loss("pixels"), InversionSettings(**fast), attack)


def test_keys_are_read_from_8_bit_images(generator, fingerprint, marked):
    images, keys = marked
    estimate = decoder(generator, fingerprint).decode(images)
    assert float((estimate.bits == keys).float().mean()) >= 0.95
    assert estimate.latents.shape == (4, 16)
    reconstruction = generator.synthesize(estimate.latents).clamp(0, 1)
    assert float((reconstruction - images).square().mean()) < 1e-3


def test_centred_keys_are_read(generator, fingerprint, marked):
    _, keys = marked
    centred = replace(fingerprint, centred=True)
    images = generator.synthesize(centred.embed(generator.sample_latents(4, seed=2), keys))
    assert torch.equal(decoder(generator, centred).decode(to_uint8(images).float() / 255).bits, keys)


def test_it_works_in_inference_mode_and_leaves_the_weights_alone(generator, fingerprint, marked):
    with torch.inference_mode():
        images = marked[0] + 0.0
        estimate = decoder(generator, fingerprint, steps=5).decode(images)
    assert estimate.bits.shape == (4, BITS)
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_rows_do_not_depend_on_their_company(generator, fingerprint, marked):
    together = decoder(generator, fingerprint, steps=20).decode(marked[0])
    alone = decoder(generator, fingerprint, steps=20).decode(marked[0][2:3])
    small = decoder(generator, fingerprint, steps=20, batch=3).decode(marked[0])
    assert torch.allclose(together.logits[2:3], alone.logits, atol=1e-2)
    assert torch.allclose(together.logits, small.logits, atol=1e-2)


def test_updates_are_those_of_torchs_adam(generator, fingerprint, marked):
    settings = {"starts": 1, "steps": 12, "decay": 0.05, "learning_rate": 0.1, "penalty": 0.5}
    estimate = decoder(generator, fingerprint, **settings).decode(marked[0][:1])
    alpha = latin_hypercube(1, 16 - BITS, 0).clone().requires_grad_(True)
    logits = torch.zeros(1, BITS, requires_grad=True)
    optimiser = torch.optim.Adam([alpha, logits], lr=0.1)
    loss = make_loss("pixels")
    for step in range(12):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 * np.exp(-0.05 * (step + 1))
        w = fingerprint.mean + (alpha * fingerprint.other_deviation) @ fingerprint.other_axes
        w = w + fingerprint.sigma * torch.sigmoid(logits) @ fingerprint.key_axes[0]
        value = loss(generator.synthesize(w), marked[0][:1]).sum()
        value = value + 0.5 * ((alpha - 3).relu() + (-3 - alpha).relu()).sum()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert torch.allclose(estimate.logits, logits.detach(), atol=2e-3)


def test_the_penalty_keeps_alpha_within_three_deviations(generator, fingerprint, marked):
    images, _ = marked
    run = decoder(generator, fingerprint, steps=1, penalty=2.0, starts=1)
    far = torch.full((1, 1, 16 - BITS), 4.0)
    inside = run.refine(images[:1], far * 0, torch.zeros(1, 1, 1))
    outside = run.refine(images[:1], far, torch.zeros(1, 1, 1))
    free = decoder(generator, fingerprint, steps=1, penalty=0.0, starts=1).refine(images[:1], far, torch.zeros(1, 1, 1))
    assert float(outside.loss) > float(free.loss) + 0.9 * 2.0 * (16 - BITS) * 0.8
    assert float(inside.loss) < float(outside.loss)


def test_losing_restarts_are_dropped_and_the_work_falls(generator, fingerprint, marked):
    images, keys = marked
    counts = []

    def counted(latents):
        counts.append(len(latents))
        return generator.synthesize(latents)

    settings = InversionSettings(starts=4, steps=60, whitened=True, survivors=((20, 2), (40, 1)), decay=0.01)
    estimate = InversionDecoder(counted, fingerprint, make_loss("pixels"), settings).decode(images)
    assert counts[:20] == [16] * 20
    assert counts[20:40] == [8] * 20
    assert counts[40:60] == [4] * 20
    assert float((estimate.bits == keys).float().mean()) >= 0.85


def test_images_that_settle_stop(generator, fingerprint, marked):
    counts = []

    def counted(latents):
        counts.append(len(latents))
        return generator.synthesize(latents)

    settings = InversionSettings(starts=2, steps=400, whitened=True, patience=20, tolerance=0.01, decay=0.02)
    estimate = InversionDecoder(counted, fingerprint, make_loss("pixels"), settings).decode(marked[0])
    assert sum(counts) < 0.8 * 400 * 8
    assert counts[-1] <= 8
    assert estimate.bits.shape == (4, BITS)


def test_best_rows_are_those_of_least_loss():
    image = torch.tensor([0, 1, 0, 1, 0, 1])
    loss = torch.tensor([3.0, 1.0, 2.0, 5.0, 9.0, 0.5])
    values = torch.arange(6.0)[:, None]
    rows = Rows(image, values, values, values, loss, loss, image)
    assert _best_rows(rows, 1).values[:, 0].tolist() == [2.0, 5.0]
    assert _best_rows(rows, 2).values[:, 0].tolist() == [2.0, 0.0, 5.0, 1.0]


def test_a_simulated_attack_meets_every_synthesis(generator, fingerprint, marked):
    seen = []

    def attack(images, seeds):
        assert 0.0 <= float(images.min()) <= float(images.max()) <= 1.0
        seen.append(seeds.clone())
        return images * 0.9

    run = decoder(generator, fingerprint, attack=attack, steps=3, draws=2, starts=2)
    run.decode(marked[0] * 0.9)
    assert len(seen) == 2 * (3 + 1)  # the last pair is of the result
    assert len({tuple(seeds.tolist()) for seeds in seen[:6]}) == 6


def test_the_latin_hypercube_has_one_point_in_each_cell_of_each_axis():
    points = latin_hypercube(20, 7, seed=0)
    cells = (points + 1) / 2 * 20
    assert torch.allclose(cells, cells.floor() + 0.5, atol=1e-4)
    assert all(sorted(column.floor().int().tolist()) == list(range(20)) for column in cells.T)
    assert not torch.equal(points, latin_hypercube(20, 7, seed=1))


@pytest.mark.parametrize(
    "settings", [{"starts": 0}, {"survivors": ((10, 20),)}, {"survivors": ((10, 5), (5, 2))}, {"draws": 0}]
)
def test_settings_that_cannot_be_run_are_refused(settings):
    with pytest.raises(ValueError, match="found"):
        InversionSettings(**settings)


def test_survivors_are_the_restarts_that_are_kept_the_best_among_them(generator, fingerprint, marked):
    images, _ = marked
    run = decoder(generator, fingerprint, starts=5, steps=12, survivors=((4, 3),), whitened=True)
    alpha, logits = run.survivors(images)
    assert alpha.shape[:2] == logits.shape[:2] == (len(images), 3)
    targets, image = run.loss.features(images), torch.arange(len(images))
    values = torch.cat([alpha, logits], dim=2)
    losses = torch.stack([run._losses(values[:, place], image, targets, 12) for place in range(3)])
    best = run.decode(images)
    assert torch.allclose(losses.amin(dim=0), best.loss, rtol=1e-4)
    every = decoder(generator, fingerprint, starts=5, steps=12, whitened=True).survivors(images)
    assert every[0].shape[1] == 5
