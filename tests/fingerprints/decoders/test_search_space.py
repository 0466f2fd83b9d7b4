"""The space of a search: codes where the generator quantises, the latent itself where it does not."""

from __future__ import annotations

import pytest
import torch
from small_latent_diffusion import BITS, fingerprint_of, small_latent_diffusion
from smooth_generator import Smooth, smooth_fingerprint

from lightning_modules.fingerprints.decoders.base import DecoderParts
from lightning_modules.fingerprints.decoders.hybrid import EncoderStarts
from lightning_modules.fingerprints.decoders.key_network import KeyNetwork
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.decoders.registry import make_decoder
from lightning_modules.fingerprints.decoders.search_space import search_space
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.generators.latent_diffusion import LatentDiffusionGenerator
from lightning_modules.generators.latent_diffusion.first_stage import quantise


@pytest.fixture(scope="module")
def quantising() -> LatentDiffusionGenerator:
    return small_latent_diffusion("vq")


def latents(fingerprint: Fingerprint, n: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    keys = torch.rand(n, BITS, generator=generator) > 0.5
    return fingerprint.embed(fingerprint.gaussian_latents(torch.randn(n, 48, generator=generator)), keys)


def test_deviations_of_codes_are_those_of_latents_and_of_the_quantisation(quantising):
    fingerprint = fingerprint_of()
    space = search_space(quantising, fingerprint)
    assert space.synthesize == quantising.synthesize_codes
    assert bool((space.widening > 1.0).all())
    assert bool((space.widening.diff() > 0).all())  # faint axes are widened most
    assert torch.allclose(space.fingerprint.other_deviation, space.widening * fingerprint.other_deviation)
    drawn = latents(fingerprint, 400)
    codes, _ = quantise(drawn.view(-1, 3, 4, 4) / 0.5, quantising.first_stage.codebook)
    error = (codes.flatten(1) * 0.5 - drawn).square().mean()
    added = space.fingerprint.other_deviation.square() - fingerprint.other_deviation.square()
    assert torch.allclose(added, error.expand_as(added), rtol=0.1)
    for name in ("mean", "key_axes", "other_axes"):
        assert torch.equal(getattr(space.fingerprint, name), getattr(fingerprint, name))
    assert (space.fingerprint.sigma, space.fingerprint.bits) == (0.8, BITS)


def test_noise_that_is_drawn_anew_is_refused():
    generator = Smooth()
    generator.reproducible = False
    with pytest.raises(ValueError, match="draws new noise for each image, expected one noise in all images"):
        search_space(generator, smooth_fingerprint(generator, 1.0))


def test_images_of_codes_are_those_of_the_latents_they_stand_for(quantising):
    drawn = latents(fingerprint_of())
    codes, _ = quantise(drawn.view(-1, 3, 4, 4) / 0.5, quantising.first_stage.codebook)
    shown = quantising.synthesize_codes(codes.flatten(1) * 0.5)
    assert torch.allclose(shown, quantising.synthesize(drawn), atol=1e-5)
    assert float((quantising.synthesize_codes(drawn) - shown).abs().max()) > 0.01  # off the codes they differ


def test_codes_have_slopes_where_latents_have_none(quantising):
    drawn = latents(fingerprint_of())
    moved = drawn + 1e-3
    by_latent, by_code = (
        (synthesize(moved) - synthesize(drawn)).flatten(1).abs().amax(dim=1)
        for synthesize in (quantising.synthesize, quantising.synthesize_codes)
    )
    assert float((by_latent < 1e-6).float().mean()) > 0.5  # no vector has left its cell
    assert float(by_code.min()) > 1e-5


def test_a_stage_without_codes_is_searched_in_its_latents():
    generator = small_latent_diffusion("kl")
    fingerprint = fingerprint_of()
    space = search_space(generator, fingerprint)
    drawn = latents(fingerprint, 8)
    assert torch.equal(space.synthesize(drawn), generator.synthesize(drawn))
    assert torch.allclose(space.widening, torch.ones(44))
    assert torch.allclose(space.fingerprint.other_deviation, fingerprint.other_deviation)


def test_a_generator_without_codes_is_left_alone():
    generator = Smooth()
    fingerprint = smooth_fingerprint(generator, 1.0)
    space = search_space(generator, fingerprint)
    assert space.synthesize == generator.synthesize
    assert space.fingerprint.id == fingerprint.id
    assert torch.equal(space.widening, torch.ones(10))


def test_an_inversion_starts_from_the_encoder_and_improves_on_it(quantising):
    fingerprint = fingerprint_of()
    network = KeyNetwork(BITS, 44, backbone="test_resnet", stem="small", image_size=16)
    loss = make_loss("pixels", scales=1)
    decoder = make_decoder("inversion", DecoderParts(quantising, fingerprint, network, loss), {"iterations": 3})
    assert isinstance(decoder.start, EncoderStarts)
    images = quantising.synthesize(latents(fingerprint, 4)).clamp(0.0, 1.0)
    begun = decoder.start.starts(images)
    start = fingerprint.mean + (begun.alpha * fingerprint.other_deviation) @ fingerprint.other_axes
    before = loss(quantising.synthesize(fingerprint.embed(start, begun.logits > 0)).clamp(0.0, 1.0), images)
    estimate = decoder.decode(images)
    assert bool((estimate.loss <= before + 1e-7).all())
    assert float(estimate.loss.mean()) < 0.9 * float(before.mean())
