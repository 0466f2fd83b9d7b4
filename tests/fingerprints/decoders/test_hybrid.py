"""The hybrid keeps, image by image, whichever answer explains the image better."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from smooth_generator import BITS, Smooth, smooth_fingerprint

from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.decoders.base import KeyEstimate
from lightning_modules.fingerprints.decoders.hybrid import EncoderStarts, HybridDecoder, coordinates
from lightning_modules.fingerprints.decoders.least_squares import (
    LeastSquaresDecoder,
    LeastSquaresSettings,
    SearchSpace,
    search_space,
)
from lightning_modules.fingerprints.decoders.losses import make_loss


class Told:
    """A start that is given."""

    def __init__(self, logits, alpha):
        self.answer = logits, alpha

    def starts(self, images):
        return self.answer


class ToldSearch:
    """A search whose answer is given; remembers what it was started with."""

    def __init__(self, logits, latents):
        self.answer = KeyEstimate(logits, torch.zeros(len(logits)), latents)

    def refine(self, images, alpha, logits, alpha_error=None):
        self.alpha, self.logits, self.alpha_error = alpha, logits, alpha_error
        return self.answer


@pytest.fixture(scope="module")
def scene():
    generator = Smooth()
    fingerprint = smooth_fingerprint(generator, 1.0)
    keys = seeded_keys(8, BITS, seed=5)
    own = generator.sample_latents(8, seed=2)
    images = generator.synthesize(fingerprint.embed(own, keys))
    return generator, fingerprint, keys, images, coordinates(own, fingerprint)


def hybrid(scene, start, search=None, space=None, **options) -> HybridDecoder:
    generator, fingerprint = scene[:2]
    space = search_space(generator, fingerprint) if space is None else space
    if search is None:
        settings = LeastSquaresSettings(iterations=6)
        search = LeastSquaresDecoder(space.synthesize, space.fingerprint, make_loss("spectrum"), settings)
    return HybridDecoder(start, search, space, generator, fingerprint, make_loss("pixels"), **options)


def with_errors(keys, size=2.0):
    logits = size * (2.0 * keys.float() - 1.0)
    logits[:, :2] *= -0.5
    return logits


def test_the_search_mends_a_start_that_errs(scene):
    _, fingerprint, keys, images, alpha = scene
    logits = with_errors(keys)
    near = alpha + 0.3 * torch.randn(alpha.shape, generator=torch.Generator().manual_seed(0))
    assert float(((logits > 0) == keys).float().mean()) < 0.7
    for trust in (None, torch.full((10,), 0.09)):
        estimate = hybrid(scene, Told(logits, near), alpha_error=trust).decode(images)
        assert torch.equal(estimate.bits, keys)
        assert torch.allclose(coordinates(estimate.latents, fingerprint), alpha, atol=0.05)


def test_a_start_that_is_better_is_kept(scene):
    generator, fingerprint, keys, images, alpha = scene
    logits = 10.0 * (2.0 * keys.float() - 1.0)
    search = ToldSearch(with_errors(keys), fingerprint.mean.expand(8, -1))
    estimate = hybrid(scene, Told(logits, alpha), search).decode(images)
    assert torch.equal(estimate.logits, logits)
    assert float(estimate.loss.max()) < 1e-8
    assert torch.allclose(generator.synthesize(estimate.latents), images, atol=1e-4)


def test_each_image_has_the_better_of_its_two_answers(scene, monkeypatch):
    """Odd images have a good start and a bad search, even ones the reverse."""
    generator, fingerprint, keys, images, alpha = scene
    odd = (torch.arange(8) % 2 == 1)[:, None]
    right, wrong = 3.0 * (2.0 * keys.float() - 1.0), with_errors(keys, 5.0)
    latents = generator.sample_latents(8, seed=2)  # their part along the key must not count
    start, search = Told(torch.where(odd, right, wrong), alpha), ToldSearch(torch.where(odd, wrong, right), latents)
    for batch in (256, 3):
        monkeypatch.setattr("lightning_modules.fingerprints.decoders.hybrid.BATCH", batch)
        estimate = hybrid(scene, start, search).decode(images)
        assert torch.equal(estimate.logits, right)
        assert float(estimate.loss.max()) < 1e-8
        assert torch.allclose(estimate.latents, fingerprint.embed(latents, keys), atol=1e-4)


def test_answers_are_ranked_with_bits_and_not_with_what_the_search_left_between(scene):
    """A search that explains the image by a key between the bits is ranked by the bits it reads from it."""
    generator, fingerprint, keys, images, alpha = scene
    exact = fingerprint.embed(generator.sample_latents(8, seed=2), keys)
    flipped = -5.0 * (2.0 * keys.float() - 1.0)  # latents are right, bits are not
    near = Told(3.0 * (2.0 * keys.float() - 1.0), alpha + 0.05)
    estimate = hybrid(scene, near, ToldSearch(flipped, exact)).decode(images)
    assert torch.equal(estimate.bits, keys)
    loss = make_loss("pixels")(generator.synthesize(estimate.latents), images)
    assert torch.allclose(estimate.loss, loss, rtol=1e-4, atol=1e-9)


def test_starts_and_their_variance_are_carried_into_the_space_of_the_search(scene):
    generator, fingerprint, keys, images, alpha = scene
    widening = torch.linspace(1.0, 3.0, 10)
    space = SearchSpace(generator.synthesize, fingerprint, widening)
    latents = generator.sample_latents(8, seed=2)
    search = ToldSearch(with_errors(keys), latents)
    trust = torch.full((10,), 0.5)
    hybrid(scene, Told(with_errors(keys), alpha), search, space, alpha_error=trust).decode(images)
    assert torch.allclose(search.alpha, alpha / widening)
    known = 1.0 / widening.square()  # the rest is the error of the quantisation
    assert torch.allclose(search.alpha_error, trust * known + 1.0 - known)
    assert torch.equal(search.logits, with_errors(keys))
    hybrid(scene, Told(with_errors(keys), alpha), search, space).decode(images)
    assert search.alpha_error is None


@pytest.mark.parametrize("centred", [False, True])
def test_an_encoders_latents_are_read_along_the_key_axes(scene, centred):
    generator, _, keys, _, alpha = scene
    fingerprint = smooth_fingerprint(generator, 1.0, centred=centred)
    marked = fingerprint.embed(generator.sample_latents(8, seed=2), keys)
    encoding = SimpleNamespace(encode=lambda images: marked)
    logits, found = EncoderStarts(encoding, fingerprint).starts(torch.zeros(8, 3, 16, 16))
    assert torch.allclose(logits, 8.0 * (keys.float() - 0.5), atol=1e-3)
    assert torch.allclose(found, alpha, atol=1e-3)
