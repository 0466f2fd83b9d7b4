"""Several representations, one answer: branches learn on their own, validation images weigh them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_modules.networks.controlled import ControlledNetworks
from lightning_modules.networks.fusion import FusionNetwork
from lightning_modules.networks.recipes import choose_networks
from lightning_modules.networks.source_network import SourceNetwork, VectorHead

SHAPES = {"raw": (3, 16, 16), "spectrum": (10,)}


def fusion() -> FusionNetwork:
    return FusionNetwork(
        {"raw": SourceNetwork("small_cnn_16", 3, seed=1), "spectrum": VectorHead("mlp", 10, 3, seed=2)}
    )


def test_the_answer_is_the_weighted_product_of_the_branches():
    network = fusion().eval()
    image, vector = torch.rand(5, 3, 16, 16), torch.rand(5, 10)
    alone = [
        branch(seen)[0].log_softmax(1) for branch, seen in zip(network.branches.values(), (image, vector), strict=True)
    ]
    network.weights.copy_(torch.tensor([2.0, 0.5]))
    logits, features = network(image, vector)
    torch.testing.assert_close(logits, 2.0 * alone[0] + 0.5 * alone[1])
    torch.testing.assert_close(network.alone(features), torch.stack(alone))
    torch.testing.assert_close(network.together(torch.stack(alone), without=0), 0.5 * alone[1])
    assert features.shape == (5, network.num_features)


def test_each_branch_learns_from_its_own_loss():
    """Another branch, and its gradients, change nothing in it."""
    image, vector, labels = torch.rand(5, 3, 16, 16), torch.rand(5, 10), torch.tensor([0, 1, 2, 0, 1])
    network = fusion()
    _, features = network(image, vector)
    network.losses(features, labels, [0.05, 0.0]).backward()
    single = VectorHead("mlp", 10, 3, seed=2)
    cross_entropy(single(vector)[0], labels).backward()
    for mine, other in zip(network.branches["spectrum"].parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_validation_images_weigh_the_branches_and_set_the_temperature():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (400,), generator=generator)
    knows = torch.nn.functional.one_hot(labels, 4) * 2.0 + torch.randn(400, 4, generator=generator)
    guesses = 6.0 * torch.randn(400, 4, generator=generator)
    network = FusionNetwork({name: VectorHead("linear", 2, 4) for name in ("knows", "guesses")})
    alone = torch.stack([3.0 * knows, guesses]).log_softmax(2)
    before = cross_entropy(network.together(alone), labels)
    network.fit_weights(alone, labels)
    weights = network.weights.tolist()
    assert weights[1] < 0.1 * weights[0]
    assert weights[0] == pytest.approx(1 / 3 * 2, rel=0.35)  # Gaussian classes 2 apart: log odds are twice the value
    assert cross_entropy(network.together(alone), labels) < before
    best = min(cross_entropy(scale * alone[0], labels).item() for scale in torch.linspace(0.1, 2, 100))
    assert cross_entropy(network.together(alone), labels) < best + 0.01


def test_weights_are_fitted_within_inference_mode():
    network, alone = fusion(), torch.randn(2, 6, 3).log_softmax(2)
    with torch.inference_mode():
        network.fit_weights(alone, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert not torch.equal(network.weights, torch.ones(2))


def test_networks_of_a_fusion_suit_what_they_see():
    chosen = choose_networks("auto", "auto", "auto", None, SHAPES)
    assert chosen == {
        "main/raw": ("small_cnn", "imagenet"),
        "main/spectrum": ("mlp_bn", "auto"),
        "control": ("small_cnn", "imagenet"),
    }
    networks = ControlledNetworks(chosen, list(SHAPES), ["raw"], SHAPES, num_classes=3)
    assert networks.inputs == set(SHAPES)
    outputs = networks({"raw": torch.rand(4, 3, 16, 16), "spectrum": torch.rand(4, 10)})
    losses = networks.losses(outputs, torch.tensor([0, 1, 2, 0]))
    assert set(losses) == {"main", "raw_0"}
    assert len(networks.trained()) == 3
    assert networks.compared == {"raw": ["raw_0"]}
