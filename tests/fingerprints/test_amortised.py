"""The network decoder and the hybrid: calibration, starts, the better of both."""

from __future__ import annotations

import pytest
import torch
from smooth_generator import BITS, Smooth

from lightning_modules.fingerprints.amortised import AmortisedDecoder, KeyNetwork, fit_temperature
from lightning_modules.fingerprints.fingerprint import make_fingerprint
from lightning_modules.fingerprints.hybrid import HybridDecoder
from lightning_modules.fingerprints.inversion import InversionDecoder, InversionSettings
from lightning_modules.fingerprints.keys import seeded_keys
from lightning_modules.fingerprints.layouts import place_key
from lightning_modules.fingerprints.losses import make_loss


@pytest.fixture
def network() -> KeyNetwork:
    return KeyNetwork(BITS, 10, backbone="test_resnet", stem="small", image_size=16)


def test_the_network_gives_logits_and_alpha(network):
    logits, alpha = network(torch.rand(3, 3, 16, 16))
    assert logits.shape == (3, BITS)
    assert alpha.shape == (3, 10)


def test_temperature_makes_logits_log_odds():
    generator = torch.Generator().manual_seed(0)
    odds = torch.randn(4000, 8, generator=generator) * 2
    keys = torch.rand(4000, 8, generator=generator) < torch.sigmoid(odds)
    assert fit_temperature(odds * 3.0, keys) == pytest.approx(3.0, rel=0.05)
    assert fit_temperature(odds / 4.0, keys) == pytest.approx(0.25, rel=0.05)


def test_calibration_stays_with_the_network(network):
    network.eval()
    images = torch.rand(64, 3, 16, 16)
    before, _ = network(images)
    keys = torch.rand(64, BITS) < torch.sigmoid(before / 2)
    change = network.calibrate(before, keys)
    after, _ = network(images)
    assert torch.allclose(after, before / change, atol=1e-5)
    assert float(network.state_dict()["log_temperature"]) == pytest.approx(float(torch.log(torch.tensor(change))))


def test_batches_do_not_change_the_answer(network):
    images = torch.rand(7, 3, 16, 16)
    whole, parts = AmortisedDecoder(network).decode(images), AmortisedDecoder(network, batch=2).decode(images)
    assert torch.allclose(whole.logits, parts.logits, atol=1e-4)
    assert torch.isnan(whole.loss).all()
    assert float(whole.confidence.min()) >= 0.5


class Told:
    """Stands in for a network's decoder: given starts."""

    def __init__(self, logits, alpha):
        self.answer = logits, alpha

    def starts(self, images):
        return self.answer


@pytest.fixture
def scene():
    generator = Smooth()
    latents = generator.sample_latents(2000, seed=1)
    placed = place_key(lambda: latents.split(500), 16, BITS, -BITS)
    fingerprint = make_fingerprint(placed, 1.0, -BITS, "flat", "hash", "g")
    keys = seeded_keys(8, BITS, seed=5)
    own = generator.sample_latents(8, seed=2)
    images = generator.synthesize(fingerprint.embed(own, keys))
    alpha = ((own - fingerprint.mean) @ fingerprint.other_axes.T) / fingerprint.other_deviation
    return generator, fingerprint, keys, images, alpha


def inversion(scene, steps) -> InversionDecoder:
    settings = InversionSettings(starts=1, steps=steps, whitened=True, learning_rate=0.1, decay=0.01)
    return InversionDecoder(scene[0].synthesize, scene[1], make_loss("pixels"), settings)


def test_the_hybrid_mends_a_network_that_errs(scene):
    _, _, keys, images, alpha = scene
    logits = keys.float() * 4 - 2
    logits[:, :2] *= -0.5  # two bits wrong in every image
    near = alpha + 0.3 * torch.randn(alpha.shape, generator=torch.Generator().manual_seed(0))
    estimate = HybridDecoder(Told(logits, near), inversion(scene, 80)).decode(images)
    assert float((estimate.bits == keys).float().mean()) > 0.97
    assert float((logits > 0).eq(keys).float().mean()) < 0.7


def test_the_hybrid_keeps_the_network_where_that_explains_the_image_better(scene):
    _, _, keys, images, alpha = scene
    logits = keys.float() * 40 - 20
    run = inversion(scene, 1)
    estimate = HybridDecoder(Told(logits, alpha), run).decode(images)
    assert torch.equal(estimate.logits, logits)
    assert torch.allclose(estimate.loss, run.judge(images, alpha.clamp(-3, 3), logits))


def test_the_hybrid_needs_one_unit_for_both(scene):
    plain = InversionDecoder(scene[0].synthesize, scene[1], make_loss("pixels"), InversionSettings(starts=1, steps=2))
    with pytest.raises(ValueError, match="not whitened"):
        HybridDecoder(Told(None, None), plain)
