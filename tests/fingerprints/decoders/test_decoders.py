"""Decoders by name: each is built and reads keys, wrong words are named with near ones, each uses what it says."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest
import torch
from smooth_generator import BITS, Smooth, smooth_fingerprint

from lightning_modules.common.images import to_uint8
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.decoders.amortised import AmortisedDecoder
from lightning_modules.fingerprints.decoders.base import DecoderParts, KeyEstimate, NamedDecoder
from lightning_modules.fingerprints.decoders.hybrid import EncoderStarts, HybridDecoder, RestartedDecoder
from lightning_modules.fingerprints.decoders.inversion import InversionDecoder
from lightning_modules.fingerprints.decoders.key_network import KeyNetwork
from lightning_modules.fingerprints.decoders.losses import LOSSES, ImageLoss, make_loss
from lightning_modules.fingerprints.decoders.refinement import Refinement
from lightning_modules.fingerprints.decoders.registry import DECODERS, check_decoder, make_decoder

SHORT = {"amortised": {"batch": 2}, "paper": {"starts": 6, "steps": 150}, "refined": {"iterations": 20}}


class Encoding(Smooth):
    """Knows the latents of its images."""

    def __init__(self):
        super().__init__()
        self.encoded = 0

    def encode(self, images):
        self.encoded += len(images)
        return torch.logit(images.clamp(1e-3, 1.0 - 1e-3)).flatten(1) @ torch.linalg.pinv(self.weight)


@pytest.fixture(scope="module")
def network() -> KeyNetwork:
    torch.manual_seed(0)
    network = KeyNetwork(BITS, 10, backbone="test_resnet", stem="small", image_size=16)
    network.alpha_error.copy_(torch.linspace(0.5, 2.0, 10))
    return network


@pytest.fixture(scope="module")
def generator() -> Smooth:
    return Smooth()


def marked(generator, n=6):
    fingerprint = smooth_fingerprint(generator, 1.0)
    keys = seeded_keys(n, BITS, seed=5)
    images = generator.synthesize(fingerprint.embed(generator.sample_latents(n, seed=2), keys))
    return fingerprint, keys, to_uint8(images).float() / 255


def build(name, generator, network, options=None, attack=None):
    parts = DecoderParts(generator, smooth_fingerprint(generator, 1.0), network, make_loss("pixels"), attack)
    return make_decoder(name, parts, options)


@pytest.mark.parametrize("name", DECODERS)
def test_every_name_gives_a_decoder(name, generator, network):
    _, keys, images = marked(generator)
    estimate = build(name, generator, network, SHORT.get(name)).decode(images)
    assert estimate.logits.shape == keys.shape
    assert estimate.loss.shape == (6,)
    assert estimate.logits.isfinite().all()
    if name != "amortised":  # the network is not trained
        assert float((estimate.bits == keys).float().mean()) > 0.9
        remade = generator.synthesize(estimate.latents)
        assert float((remade - images).square().mean()) < 2e-3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hybird", {}, "found decoder 'hybird'; did you mean hybrid"),
        ("oracle", {}, "found decoder 'oracle'; expected one of amortised, hybrid, inversion, paper, refined"),
        ("hybrid", {"iteration": 3}, "option of the decoder hybrid 'iteration'; did you mean iterations"),
        ("paper", {"learning-rate": 3}, "option of the decoder paper 'learning-rate'; did you mean learning_rate"),
        (
            "inversion",
            {"starts": 3},
            "option of the decoder inversion 'starts', of paper; expected one of iterations, survivors, steps",
        ),
        (
            "amortised",
            {"steps": 3},
            "amortised 'steps', of hybrid and of inversion and of paper and of refined; expected one of batch",
        ),
    ],
)
def test_unknown_words_are_named_with_what_is_near(name, options, message, generator, network):
    with pytest.raises(ValueError, match=message):
        check_decoder(name, options)
    with pytest.raises(ValueError, match=message):
        build(name, generator, network, options)


def test_settings_that_cannot_be_run_are_refused(generator, network):
    for name, options, told in (
        ("hybrid", {"iterations": 0}, "found iterations 0, expected at least 1"),
        ("refined", {"steps": 0}, "found steps 0, expected at least 1"),
        ("refined", {"damping": 0.1}, "of the decoder refined 'damping', of hybrid and of inversion; expected one of"),
        ("paper", {"steps": 0}, "found steps 0, expected at least 1"),
        ("amortised", {"batch": -1}, "found batch -1, expected at least 1"),
        ("amortised", {"batch": "2"}, "found option batch of the decoder amortised '2', expected a whole number"),
        ("hybrid", {"damping": True}, "found option damping of the decoder hybrid True, expected a number"),
        ("hybrid", {"directions": 1.5}, "directions of the decoder hybrid 1.5, expected a whole number or null"),
        ("paper", {"survivors": [[5, 3], 2]}, "expected a list of pairs of whole numbers"),
        ("amortised", {"registrations": "flip"}, "'flip', expected a list of names, such as [flip, shift]"),
        ("hybrid", {"registrations": None}, "None, expected a list of names, such as [flip, shift]"),
        ("hybrid", {"registrations": ["flipp"]}, "found registration 'flipp'; did you mean flip"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            build(name, generator, network, options)


def test_an_attack_is_simulated_by_the_paper_s_decoder_alone(generator, network):
    seen = []

    def attack(images, seeds):
        seen.append(len(images))
        return images

    for name in DECODERS:
        if name == "paper":
            continue
        with pytest.raises(ValueError, match=f"an attack to simulate in the decoder {name}, expected the decoder pa"):
            build(name, generator, network, attack=attack)
    build("paper", generator, network, {"starts": 2, "steps": 3}, attack).decode(marked(generator)[2])
    assert len(seen) >= 3


def test_options_come_before_presets(generator, network):
    for name in ("hybrid", "inversion"):
        plain, changed = build(name, generator, network), build(name, generator, network, {"iterations": 99})
        assert plain.search.settings.iterations == DECODERS.load(name).preset["iterations"]
        assert changed.search.settings == replace(plain.search.settings, iterations=99)
    paper = build("paper", generator, network)
    assert (paper.settings.starts, paper.settings.steps, paper.settings.whitened) == (20, 2000, False)
    assert build("paper", generator, network, {"survivors": [[5, 3], [9, 1]]}).settings.survivors == ((5, 3), (9, 1))
    assert build("amortised", generator, network, {"batch": 3}).batch == 3


def test_each_starts_from_what_it_says(generator, network):
    hybrid, inversion = build("hybrid", generator, network), build("inversion", generator, network)
    assert isinstance(hybrid, HybridDecoder)
    assert isinstance(hybrid.start, AmortisedDecoder)
    assert hybrid.start.network is network
    assert torch.equal(hybrid.alpha_error, network.alpha_error)
    refined = build("refined", generator, network)
    assert refined.start.network is network
    assert torch.equal(refined.alpha_error, network.alpha_error)
    assert isinstance(refined.search, Refinement)
    assert isinstance(inversion, RestartedDecoder)
    assert inversion.descent.settings.whitened
    assert isinstance(build("paper", generator, network), InversionDecoder)


def test_the_inversion_uses_an_encoder_where_there_is_one(network):
    generator = Encoding()
    fingerprint, keys, images = marked(generator)
    decoder = build("inversion", generator, network)
    assert isinstance(decoder.start, EncoderStarts)
    start = decoder.start.starts(images)
    logits, alpha = start.logits, start.alpha
    assert torch.equal(logits > 0, keys)
    assert float(logits.abs().max()) <= 4.0
    along = (generator.sample_latents(6, seed=2) - fingerprint.mean) @ fingerprint.other_axes.T
    error = alpha - along / fingerprint.other_deviation
    assert float(error.square().mean().sqrt()) < 0.2  # pixels near black and white are cut off
    estimate = decoder.decode(images)
    assert generator.encoded == 12
    assert torch.equal(estimate.bits, keys)


def test_the_network_alone_never_asks_the_generator(network):
    generator = Smooth()
    images = marked(generator)[2]
    decoder = build("amortised", generator, network)
    generator.synthesize = None
    assert torch.isnan(decoder.decode(images).loss).all()


@dataclass(frozen=True)
class GuessSettings:
    answer: float = 1.0


class Guess(NamedDecoder):
    """A decoder of another file, with all that belongs to it."""

    settings_class = GuessSettings

    def __init__(self, bits, answer):
        self.bits, self.answer = bits, answer

    @classmethod
    def build(cls, parts, settings):
        return cls(parts.fingerprint.bits, settings.answer)

    def decode(self, images):
        return KeyEstimate(torch.full((len(images), self.bits), self.answer), torch.zeros(len(images)))


class Brightness(ImageLoss):
    def features(self, images):
        return [images.mean(dim=(1, 2, 3))[:, None]]


def test_a_new_decoder_or_loss_is_a_class_and_a_line_of_its_table(monkeypatch, generator, network):
    monkeypatch.setitem(DECODERS.members, "guess", f"{__name__}:Guess")
    monkeypatch.setitem(LOSSES.members, "brightness", f"{__name__}:Brightness")
    images = marked(generator)[2]
    assert build("guess", generator, network, {"answer": -2.0}).decode(images).logits.unique().tolist() == [-2.0]
    with pytest.raises(ValueError, match="option of the decoder guess 'anser'; did you mean answer"):
        build("guess", generator, network, {"anser": -2.0})
    assert make_loss("brightness")(images, images).tolist() == [0.0] * len(images)
