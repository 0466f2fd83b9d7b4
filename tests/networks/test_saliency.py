"""The gradient of an answer by the pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.networks.fusion import FusionNetwork
from lightning_modules.networks.saliency import own_logits, pixel_gradient
from lightning_modules.networks.source_network import SourceNetwork


def test_it_is_the_slope_that_small_steps_measure():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()
    image, step = torch.rand(3, 8, 8, dtype=torch.float64), 1e-5
    with torch.inference_mode():  # as in a test
        found = pixel_gradient(network, image, named=2)
    assert found is not None
    for place in [(0, 0, 0), (1, 3, 4), (2, 7, 7), (0, 5, 1)]:
        high, low = image.clone(), image.clone()
        high[place] += step
        low[place] -= step
        measured = float((network(high[None]) - network(low[None]))[0, 2].detach()) / (2 * step)
        assert float(found[place]) == pytest.approx(measured, rel=1e-4)


def test_a_network_that_looks_at_one_corner_is_found_out():
    def corner(images: Tensor) -> Tensor:
        return torch.stack([images[:, :, :2, :2].square().sum(dim=(1, 2, 3)), images.sum(dim=(1, 2, 3)) * 0], dim=1)

    found = pixel_gradient(corner, torch.rand(3, 8, 8) + 0.1, named=0)
    assert found is not None
    assert bool(found[:, :2, :2].all())
    assert not bool(found[:, 2:].any())
    assert not bool(found[:, :, 2:].any())


def test_what_no_gradient_reaches_has_no_map():
    assert pixel_gradient(lambda images: images.round().detach().mean(dim=(2, 3)), torch.rand(3, 8, 8), 0) is None
    elsewhere = nn.Parameter(torch.ones(1, 3))
    assert pixel_gradient(lambda images: elsewhere * 2, torch.rand(3, 8, 8), 0) is None


def test_a_gradient_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match="not finite"):
        pixel_gradient(lambda images: images.mean(dim=(2, 3)).sub(1).sqrt(), torch.ones(3, 4, 4), 0)


def test_logits_of_a_fusion_are_the_weighted_sum_of_its_branches():
    branches = {name: SourceNetwork("small_cnn_16", 3, seed=seed) for seed, name in enumerate(("raw", "artifact"))}
    network = FusionNetwork(branches).eval()
    network.weights.copy_(torch.tensor([2.0, 0.5]))
    image, artifact = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    raw, other = (branches[name](seen)[0] for name, seen in (("raw", image), ("artifact", artifact)))
    torch.testing.assert_close(own_logits(network, {"raw": image, "artifact": artifact}), 2.0 * raw + 0.5 * other)
    torch.testing.assert_close(own_logits(network, {"artifact": artifact}), 0.5 * other)
    torch.testing.assert_close(
        network(image, artifact)[0].softmax(1),
        (2.0 * raw.log_softmax(1) + 0.5 * other.log_softmax(1)).softmax(1),
    )
