"""The network decoder: shapes, calibration, batches."""

from __future__ import annotations

import math

import pytest
import torch
from smooth_generator import BITS

from lightning_modules.fingerprints.decoders.amortised import AmortisedDecoder
from lightning_modules.fingerprints.decoders.key_network import KeyNetwork, fit_temperature


@pytest.fixture
def network() -> KeyNetwork:
    """Untrained, with logits as large as those of a trained one."""
    torch.manual_seed(0)
    network = KeyNetwork(BITS, 10, backbone="test_resnet", stem="small", image_size=16)
    with torch.no_grad():
        logits, _ = network.eval()(torch.rand(50, 3, 16, 16))
        network.heads.weight *= 4.0 / logits.std()
    return network.train()


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


def calibrated(network, factor: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Calibrate on logits that are too sure by a factor: images, what evaluation gave for them before, and errors."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(200, 3, 16, 16, generator=generator)
    before, _ = network.eval()(images)
    keys = torch.rand(200, BITS, generator=generator) < torch.sigmoid(before.detach() / factor)
    errors = torch.randn(200, 10, generator=generator) * torch.linspace(0.0, 2.0, 10)
    network.calibrate(before, keys, errors)
    return images, before.detach(), errors


@torch.no_grad()
def test_the_temperature_acts_in_evaluation_alone(network):
    network.train()
    pictures = torch.rand(8, 3, 16, 16)
    trained, _ = network(pictures)
    images, before, _ = calibrated(network, 3.0)
    temperature = float(network.log_temperature.exp())
    assert temperature > 1.5
    after, _ = network(images)
    assert torch.allclose(after, before / temperature, atol=1e-5)
    again, _ = network.train()(pictures)
    assert torch.allclose(again, trained, atol=1e-5)  # batch norm in training uses the batch alone


@torch.no_grad()
@pytest.mark.parametrize("learned", [True, False])
def test_calibrating_again_changes_nothing(network, learned):
    """Nor does a network that has learned nothing, which is calibrated after every epoch, drift away."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(200, 3, 16, 16, generator=generator)
    raw, _ = network.eval()(images)
    keys = torch.rand(200, BITS, generator=generator) < (torch.sigmoid(raw / 2.0) if learned else 0.5)
    found = []
    for _ in range(3):
        network.calibrate(network(images)[0], keys, torch.ones(200, 10))
        found.append(float(network.log_temperature))
    assert found[1:] == pytest.approx(found[:1] * 2, abs=1e-4)
    expected = math.log(2.0 if learned else 20.0)  # 20 is the most that is looked for
    assert found[0] == pytest.approx(expected, abs=0.3)


@torch.no_grad()
def test_calibration_is_saved_with_the_network(network):
    images, _, errors = calibrated(network, 3.0)
    state = network.state_dict()
    expected = errors.square().mean(dim=0).clamp_min(1e-4)
    assert torch.allclose(state["alpha_error"], expected)
    assert float(state["alpha_error"][0]) == pytest.approx(1e-4)  # never sure beyond reason
    other = KeyNetwork(BITS, 10, backbone="test_resnet", stem="small", image_size=16).eval()
    other.load_state_dict(state)
    assert torch.equal(other.alpha_error, network.alpha_error)
    assert torch.allclose(other(images)[0], network(images)[0])


def test_batches_do_not_change_the_answer(network):
    images = torch.rand(7, 3, 16, 16)
    whole, parts = AmortisedDecoder(network).decode(images), AmortisedDecoder(network, batch=2).decode(images)
    assert torch.allclose(whole.logits, parts.logits, atol=1e-4)
    assert torch.isnan(whole.loss).all()
    assert float(whole.confidence.min()) >= 0.5
