"""No decoder can reach the keys it is to find: nothing it holds is a key, and its answers stay when keys change."""

from __future__ import annotations

import functools

import pytest
import torch
from reachable_objects import holds_keys, reachable
from smooth_generator import BITS, Smooth, smooth_fingerprint

from lightning_modules.common import random_streams as key_module
from lightning_modules.common.images import to_uint8
from lightning_modules.fingerprints import marked_images as marked_module
from lightning_modules.fingerprints.decoders.base import CachedDecoder, DecoderParts
from lightning_modules.fingerprints.decoders.key_network import KeyNetwork
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.decoders.registry import DECODERS, make_decoder
from lightning_modules.fingerprints.marked_images import MarkedBatch, MarkedImages
from lightning_modules.fingerprints.users.key_registry import KeyRegistry
from lightning_modules.fingerprints.users.keys import key_to_text, pack_keys

OPTIONS = {"paper": {"starts": 6, "steps": 150}}


class Scene:
    """One generator and everything that holds the true keys of its images."""

    def __init__(self):
        self.generator = Smooth()
        self.fingerprint = smooth_fingerprint(self.generator, 1.0)
        self.marked_images = MarkedImages(self.generator, self.fingerprint, seed=3)
        self.marked = self.marked_images.make(torch.arange(8))
        self.images = to_uint8(self.marked.images).float() / 255
        self.registry = KeyRegistry(BITS)
        for number, key in enumerate(self.marked.keys.unique(dim=0)):
            self.registry.add(f"user{number}", key_to_text(key))
        torch.manual_seed(0)
        self.network = KeyNetwork(BITS, 10, backbone="test_resnet", stem="small", image_size=16)

    def decoder(self, name):
        loss = make_loss("pixels")
        return make_decoder(name, DecoderParts(self.generator, self.fingerprint, self.network, loss), OPTIONS.get(name))

    def scramble(self, monkeypatch):
        """Change every true key where it lies, and what keys are drawn from."""
        self.marked.keys.logical_not_()
        for user, key in self.registry.users.items():
            self.registry.users[user] = bytes(~byte & 0xFF for byte in key)
        self.marked_images.seed += 1

        def others(n, bits, seed, start=0):
            return torch.ones(n, bits, dtype=torch.bool)

        for module in (key_module, marked_module):
            monkeypatch.setattr(module, "seeded_keys", others)
        torch.manual_seed(99)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("name", DECODERS)
def test_answers_stay_when_every_true_key_changes(name, scene, monkeypatch):
    true = scene.marked.keys.clone()
    decoder = scene.decoder(name)
    first = decoder.decode(scene.images)
    scene.scramble(monkeypatch)
    assert not bool((scene.marked.keys == true).any())
    assert not torch.equal(scene.marked_images.make(torch.arange(8)).keys, true)
    for again in (decoder, scene.decoder(name)):
        second = again.decode(scene.images)
        assert torch.equal(second.bits, first.bits)
        assert torch.equal(second.logits, first.logits)
    if name != "amortised":  # the network is not trained; the others do read the old keys from the images
        assert float((first.bits == true).float().mean()) > 0.9


@pytest.mark.parametrize("name", DECODERS)
def test_answers_follow_the_images(name, scene):
    """What the last test keeps still does move with the key in the image."""
    flipped = scene.fingerprint.embed(scene.marked.latents, ~scene.marked.keys)
    images = to_uint8(scene.generator.synthesize(flipped)).float() / 255
    decoder = scene.decoder(name)
    first, second = decoder.decode(scene.images), decoder.decode(images)
    assert not torch.equal(first.logits, second.logits)
    if name != "amortised":
        assert float((second.bits == ~scene.marked.keys).float().mean()) > 0.9


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("kept", [False, True])
def test_nothing_a_decoder_holds_is_a_key(name, kept, scene, tmp_path):
    decoder = scene.decoder(name)
    if kept:
        decoder = CachedDecoder(decoder, tmp_path, "identity")
    held = list(reachable(decoder))
    assert any(value is scene.generator or value is scene.network for _, value in held)  # the walk goes deep
    decoder.decode(scene.images)  # nor does it keep what it has read
    for way, value in [*held, *reachable(decoder)]:
        assert not isinstance(value, MarkedBatch | MarkedImages | KeyRegistry), way
        assert not holds_keys(value, scene.marked.keys), way


def closure_over(keys):
    return lambda images: keys


@pytest.mark.parametrize(
    "hide",
    [
        lambda keys: keys,
        lambda keys: keys.clone(),
        lambda keys: {"deep": [({"er": keys.float()},)]},
        lambda keys: torch.where(keys, 3.0, -0.2).flatten(),
        lambda keys: (~keys).numpy(),
        lambda keys: 2.0 * keys[4].float() - 1.0,
        lambda keys: torch.stack([torch.zeros(BITS), keys[1].float()]),
        lambda keys: keys.t()[1:3],
        closure_over,
        lambda keys: functools.partial(print, keys.int()),
        lambda keys: closure_over(torch.nn.ParameterDict({"bias": torch.nn.Parameter(keys.float())})),
        lambda keys: key_to_text(keys[2]),
        lambda keys: pack_keys(keys)[1:4],
        lambda keys: {"packed": pack_keys(keys)[2].tobytes()},
    ],
)
def test_a_hidden_key_is_noticed(hide, scene):
    """The walk that finds nothing in decoders does find keys wherever they are put."""
    decoder = scene.decoder("hybrid")
    decoder.start.network.heads.note = hide(scene.marked.keys)
    assert any(holds_keys(value, scene.marked.keys) for _, value in reachable(decoder))


def test_a_source_of_keys_is_noticed(scene):
    decoder = scene.decoder("paper")
    decoder.synthesize = scene.marked_images.make
    assert any(isinstance(value, MarkedImages) for _, value in reachable(decoder))
