"""Images that show nothing, or nothing that the generator draws, get no verdict; the generator's own images do."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_modules.attacks import image_seeds, make_attack
from lightning_modules.common.images import eight_bit
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.abstention import COLOURS, FAR, NEAR, Abstention, without_content
from lightning_modules.fingerprints.decoders.base import KeyEstimate
from lightning_modules.fingerprints.degenerate_images import degenerate_images
from lightning_modules.fingerprints.unmarked_bank import AXES, FILE_NAME, read_bank
from lightning_modules.latent_fingerprint import LatentFingerprint

TRAINED = Path(__file__).parents[2] / "lightning_modules" / "fingerprints" / "trained"


@pytest.fixture(scope="module")
def module():
    return LatentFingerprint.load_from_checkpoint(TRAINED / "stylegan2" / "checkpoints" / "last.ckpt").eval()


@pytest.fixture(scope="module")
def abstention(module):
    return Abstention(module.fingerprint, read_bank(TRAINED / "stylegan2" / FILE_NAME, module.fingerprint.id))


@pytest.fixture(scope="module")
def marked(module):
    latents = module.fingerprint.embed(module.generator.sample_latents(100, seed=55), seeded_keys(100, 32, seed=56))
    return eight_bit(module.generator.synthesize(latents).detach())


def patches(*levels, size=12):
    """An image of as many grey squares as levels, side by side."""
    rows = torch.tensor(levels).float().repeat_interleave(size) / 255
    return rows.expand(3, size, len(levels) * size)[None]


def test_few_colours_are_no_content():
    (reason,) = without_content(patches(0, 80, 160, 240))
    assert reason == f"abstained: no content: found {COLOURS - 1} colours in the image"
    assert without_content(patches(*range(0, 250, 50))) == [""]
    assert without_content(patches(9)) == ["abstained: no content: found 1 colour in the image"]


def test_faint_variation_and_fine_noise_are_no_content():
    generator = torch.Generator().manual_seed(0)
    shape = (1, 3, 64, 64)
    faint = 100 + 2.5 * torch.randn(shape, generator=generator)  # 2.5 / sqrt(3 colours) / 3 px: half a level
    strong = 100 + 20 * torch.randn(shape, generator=generator)
    (reason,) = without_content((faint.round() / 255).clamp(0, 1))
    assert reason.startswith("abstained: no content: its grey varies by 0.")
    assert without_content((strong.round() / 255).clamp(0, 1)) == [""]


def test_marked_images_keep_their_verdicts_under_attack(module, abstention, marked):
    decoder = module.key_decoder()
    for attack in ("identity", "jpeg_50", "noise_0.1", "rotation_2", "social", "paper-combination"):
        images = make_attack(attack)(marked, image_seeds(0, torch.arange(len(marked))))
        assert abstention.reasons(images, decoder.decode(images)) == [""] * len(marked), attack


def test_images_that_show_nothing_have_no_verdict(module, abstention):
    """Most of them: of squares, spots and patches some look to the decoder like what the generator draws."""
    names, images = zip(*degenerate_images(32), strict=True)
    stacked = torch.stack(images)
    reasons = abstention.reasons(stacked, module.key_decoder().decode(stacked))
    assert all("no content" in reason for reason in reasons[:256])
    for kind in ("ramp", "sine", "uniform noise", "salt and pepper", "patches"):
        assert all(reason for name, reason in zip(names, reasons, strict=True) if kind in name), kind
    assert sum("answers as it does to ramp" in reason for reason in reasons) > 5
    assert sum("the decoded latent lies at a distance" in reason for reason in reasons) > 10
    alone = Abstention(module.fingerprint)
    assert alone.reasons(stacked, module.key_decoder().decode(stacked)) == without_content(stacked)


def test_latents_of_a_search_are_compared_with_the_prior(module, abstention, marked):
    fingerprint, bank = module.fingerprint, abstention.bank
    axis, deviation = fingerprint.other_axes[0], fingerprint.other_deviation[0]
    for times, told in ((0.99, False), (1.01, True)):
        far = times * FAR * bank.farthest_latent * AXES**0.5  # all of the distance along one axis
        latents = (fingerprint.mean + far * deviation * axis)[None]
        (reason,) = abstention.reasons(marked[:1], KeyEstimate(torch.ones(1, 32), torch.zeros(1), latents))
        assert bool(reason) is told
    assert "far from the generator's images" in reason


def test_what_the_network_says_counts_beside_what_a_search_found(module, abstention, marked):
    """A hybrid gives both: its latents are near the prior, and the network's alpha is not what own images have."""
    latents = module.fingerprint.mean[None]
    alpha = module.key_decoder().starts(marked[:1]).alpha
    near = KeyEstimate(torch.ones(1, 32), torch.zeros(1), latents, alpha)
    assert abstention.reasons(marked[:1], near) == [""]
    (reason,) = abstention.reasons(marked[:1], replace(near, alpha=alpha + 5.0))
    assert reason.startswith("abstained: far from the generator's images")


def test_a_network_whose_own_images_come_near_loosens_the_limit(abstention):
    """The limit lies halfway, as an angle, between own images and those that show nothing."""
    assert abstention.likeness_limit >= NEAR
    for nearest in (0.0, 0.5, 0.9, 0.99, 0.9999, 1.0):
        limit = Abstention(abstention.fingerprint, replace(abstention.bank, nearest=nearest)).likeness_limit
        assert limit >= max(nearest, NEAR) - 1e-12
        assert limit == pytest.approx(math.cos(min(math.acos(NEAR), math.acos(nearest) / 2)))
    assert Abstention(abstention.fingerprint, replace(abstention.bank, degenerate=0)).likeness_limit == 1.0


def test_an_estimate_without_latent_is_compared_by_content_alone(abstention, marked):
    assert abstention.reasons(marked[:2], KeyEstimate(torch.ones(2, 32), torch.zeros(2))) == ["", ""]


def test_an_image_is_told_by_its_reading_as_it_is_as_well(module, abstention, marked):
    """Put back onto another ground, an image that shows nothing may show something."""
    bank = abstention.bank
    as_it_is = bank.log_odds[400:401].float() / 20
    surest = torch.randn(1, bank.bits, generator=torch.Generator().manual_seed(0))
    alpha = bank.alpha_mean[None]
    estimate = KeyEstimate(surest, torch.zeros(1), alpha=alpha)
    for answers in ([as_it_is, surest], [surest, as_it_is]):
        estimate = replace(estimate, network_logits=torch.stack(answers, dim=1))
        (reason,) = abstention.reasons(marked[:1], estimate)
        assert "the decoder answers as it does to" in reason
    assert abstention.reasons(marked[:1], replace(estimate, network_logits=surest[:, None])) == [""]
    searched = replace(estimate, latents=module.fingerprint.mean[None])  # what the network says counts there too
    assert abstention.reasons(marked[:1], searched) == [reason]
