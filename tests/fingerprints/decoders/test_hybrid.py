"""The hybrid keeps, image by image, whichever answer explains the image better."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from smooth_generator import BITS, Smooth, smooth_fingerprint

from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.decoders.base import KeyEstimate, Start
from lightning_modules.fingerprints.decoders.hybrid import EncoderStarts, HybridDecoder, consistent, coordinates
from lightning_modules.fingerprints.decoders.least_squares import LeastSquaresDecoder
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.decoders.post_processing import FILTERS, likeliest_filters
from lightning_modules.fingerprints.decoders.search_settings import LeastSquaresSettings
from lightning_modules.fingerprints.decoders.search_space import SearchSpace, search_space


class Told:
    """A start that is given."""

    def __init__(self, logits, alpha):
        self.answer = logits, alpha

    def starts(self, images):
        return Start(*self.answer, images)


class ToldSearch:
    """A search whose answer is given; remembers what it was started with."""

    def __init__(self, logits, latents, images):
        self.answer, self.images, self.behind = (logits, latents), images, []

    def refine(self, images, alpha, logits, alpha_error=None, behind=None):
        self.alpha, self.logits, self.alpha_error = alpha, logits, alpha_error
        self.behind.append(behind)
        rows = [int((self.images == image).flatten(1).all(dim=1).nonzero()[0]) for image in images]
        return KeyEstimate(self.answer[0][rows], torch.zeros(len(rows)), self.answer[1][rows])


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


def test_an_image_is_searched_as_the_chosen_reading_puts_it_back(scene):
    """The readings are the network's; the answer stands before them."""
    _, _, keys, images, alpha = scene
    readings = torch.stack([torch.full_like(with_errors(keys), 0.1), with_errors(keys), -with_errors(keys)], dim=1)

    class PutBack:
        def starts(self, seen):
            return Start(with_errors(keys), alpha, seen.flip(-1), readings)

    found = hybrid(scene, PutBack()).decode(images.flip(-1))
    assert torch.equal(found.bits, keys)
    assert torch.equal(found.readings, readings)
    assert torch.equal(found.evidence, torch.cat([found.logits[:, None], readings], dim=1))
    assert found.network_logits is None  # no network has been trained here


def test_a_start_that_is_better_is_kept(scene):
    generator, fingerprint, keys, images, alpha = scene
    logits = 10.0 * (2.0 * keys.float() - 1.0)
    search = ToldSearch(with_errors(keys), fingerprint.mean.expand(8, -1), images)
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
    start, search = (
        Told(torch.where(odd, right, wrong), alpha),
        ToldSearch(torch.where(odd, wrong, right), latents, images),
    )
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
    estimate = hybrid(scene, near, ToldSearch(flipped, exact, images)).decode(images)
    assert torch.equal(estimate.bits, keys)
    loss = make_loss("pixels")(generator.synthesize(estimate.latents), images)
    assert torch.allclose(estimate.loss, loss, rtol=1e-4, atol=1e-9)


def test_starts_and_their_variance_are_carried_into_the_space_of_the_search(scene):
    generator, fingerprint, keys, images, alpha = scene
    widening = torch.linspace(1.0, 3.0, 10)
    space = SearchSpace(generator.synthesize, fingerprint, widening)
    latents = generator.sample_latents(8, seed=2)
    search = ToldSearch(with_errors(keys), latents, images)
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
    start = EncoderStarts(encoding, fingerprint).starts(torch.zeros(8, 3, 16, 16))
    assert torch.allclose(start.logits, 8.0 * (keys.float() - 0.5), atol=1e-3)
    assert torch.allclose(start.alpha, alpha, atol=1e-3)


def test_a_blurred_image_is_searched_behind_the_blur(scene):
    """The start is right for the most part, so it shows the image before the blur, and the search reads all bits."""
    generator, _, keys, images, alpha = scene
    blurred = torch.cat([FILTERS["blur_0.7"](images[:4]), images[4:]])
    near = alpha + 0.1 * torch.randn(alpha.shape, generator=torch.Generator().manual_seed(0))
    logits = 4.0 * (2.0 * keys.float() - 1.0)
    logits[:, 0] *= -0.1
    decoder = hybrid(scene, Told(logits, near), alpha_error=torch.full((10,), 0.01))
    shown = generator.synthesize(decoder._shown(near, logits > 0))
    assert likeliest_filters(shown, blurred) == ["blur_0.7"] * 4 + ["none"] * 4
    estimate = decoder.decode(blurred)
    assert torch.equal(estimate.bits, keys)
    assert float(estimate.loss.max()) < 1e-4
    unaware = hybrid(scene, Told(logits, near), alpha_error=torch.full((10,), 0.01)).search.refine(
        blurred[:4], near[:4], logits[:4], torch.full((10,), 0.01)
    )
    assert not torch.equal(unaware.bits, keys[:4])  # what it takes for the image is another one


def test_an_answer_that_contradicts_a_calibrated_start_is_not_kept(scene):
    """It explains the image better, and says the opposite of bits that the start is sure of."""
    generator, fingerprint, keys, images, alpha = scene
    exact = fingerprint.embed(generator.sample_latents(8, seed=2), keys)
    sure_of_the_opposite = -9.0 * (2.0 * keys.float() - 1.0)
    found = ToldSearch(9.0 * (2.0 * keys.float() - 1.0), exact, images)
    for trust, kept in ((None, keys), (torch.full((10,), 0.1), ~keys)):
        estimate = hybrid(scene, Told(sure_of_the_opposite, alpha + 1.0), found, alpha_error=trust).decode(images)
        assert torch.equal(estimate.bits, kept)


def test_bits_are_consistent_with_the_odds_they_were_drawn_from():
    """At four deviations a thousand true keys are all let pass, as many with every bit turned round are not."""
    drawn = torch.Generator().manual_seed(1)
    logits = 3.0 * torch.randn(1000, 32, generator=drawn)
    bits = torch.rand(1000, 32, generator=drawn) < torch.sigmoid(logits)
    assert float(consistent(bits, logits, 4.0).double().mean()) > 0.99
    assert not bool(consistent(~bits, logits, 4.0).any())


@pytest.mark.parametrize("name", list(FILTERS))
def test_each_filter_is_told_from_the_others(name):
    """Of smooth images with an edge, as saved files hold them."""
    x = torch.linspace(0, 1, 32)
    images = torch.stack([torch.sin(9 * x * (1 + k))[None] * x[:, None] for k in torch.rand(6)]) / 2 + 0.5
    images = images[:, None].expand(-1, 3, -1, -1).clone()
    images[:, :, 8:20, 10:25] = torch.rand(6, 3, 12, 15, generator=torch.Generator().manual_seed(0))
    seen = (FILTERS[name](images).clamp(0, 1) * 255).round() / 255
    assert likeliest_filters(images + 0.005, seen) == [name] * 6
    assert likeliest_filters(images + 0.005, images) == ["none"] * 6
