"""Networks that ManiFPT is compared with: their layers, and how they are trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_modules.networks import SourceNetwork, recipe_for
from lightning_modules.networks.nataraj2019 import Nataraj2019
from lightning_modules.networks.recipes import LEAST_RATE, adamw, choose_network, has_levelled_off, scheduler_settings
from lightning_modules.networks.yu2019 import EqualConvolution, Yu2019


def widths(network, kind):
    return [tuple(layer.weight.shape[:2]) for layer in network.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize(
    ("name", "features"), [("nataraj2019", 256), ("yu2019", 512), ("wang2020", 2048), ("legacy_xception", 2048)]
)
def test_they_serve_as_the_source_network(name, features):
    name, stem = choose_network(name, "auto", (3, 32, 32))
    assert stem == ("small" if name in ("wang2020", "legacy_xception") else "imagenet")
    network = SourceNetwork(name, 5, stem, seed=1, size=32).eval()
    logits, found = network(torch.rand(2, 3, 32, 32))
    assert (logits.shape, found.shape, network.num_features) == ((2, 5), (2, features), features)
    torch.testing.assert_close(network.backbone.get_classifier()(found), logits)
    same = SourceNetwork(name, 5, stem, seed=1, size=32).state_dict()
    assert all(torch.equal(same[key], value) for key, value in network.state_dict().items())


def test_a_network_of_ours_has_no_pretrained_weights():
    with pytest.raises(ValueError, match="yu2019 has no ImageNet weights"):
        SourceNetwork("yu2019", 5, weights="imagenet")
    with pytest.raises(ValueError, match="did you mean yu2019"):
        SourceNetwork("yu2018", 5)


def test_nataraj_is_built_as_published():
    network = Nataraj2019(7)
    expected = [(32, 3, 3, 2), (32, 32, 5, 1), (64, 32, 3, 1), (64, 64, 5, 1), (128, 64, 3, 1), (128, 128, 5, 1)]
    layers = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    assert [(*each.weight.shape[:3], each.stride[0]) for each in layers] == expected
    assert network.forward_features(torch.zeros(1, 3, 256, 256)).shape == (1, 128, 16, 16)
    assert widths(network, nn.Linear) == [(256, 128 * 16 * 16), (7, 256)]


def test_yu_is_built_as_published_at_its_size_and_begins_later_below():
    pairs = [(16, 3), (32, 16), (32, 32), (64, 32), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256)]
    pairs += [(512, 256), (512, 512), (512, 512 * 16), (7, 512)]
    assert widths(Yu2019(7, 128), EqualConvolution) == pairs
    assert widths(Yu2019(7, 32), EqualConvolution) == [(64, 3), *pairs[5:]]
    assert Yu2019(7, 128).forward_features(torch.zeros(1, 3, 128, 128)).shape == (1, 512, 4, 4)
    for size in (5, 8, 40, 200):
        network = Yu2019(2, size)
        assert network.forward_head(network.forward_features(torch.rand(2, 3, size, size))).shape == (2, 2)


def test_learning_rates_of_yu_are_equal():
    """The weights are of N(0, 1) and are scaled when they are used, and the border is mirrored."""
    torch.manual_seed(0)
    layer = EqualConvolution(8, 64, 3)
    assert float(layer.weight.detach().std()) == pytest.approx(1.0, abs=0.05)
    images = torch.rand(1, 8, 6, 6)
    mirrored = nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    expected = nn.functional.conv2d(mirrored, layer.weight * (2 / (8 * 9)) ** 0.5)
    torch.testing.assert_close(layer(images), expected)


def test_the_last_layer_of_wang_begins_small():
    network = SourceNetwork("wang2020", 400, stem="small")
    assert float(network.backbone.fc.weight.detach().std()) == pytest.approx(0.02, rel=0.01)


def test_stem_of_xception_keeps_every_pixel():
    seen = {}
    network = SourceNetwork("legacy_xception", 3, stem="small").eval()
    network.backbone.conv2.register_forward_pre_hook(lambda module, args: seen.update(shape=args[0].shape))
    network(torch.zeros(1, 3, 32, 32))
    assert seen["shape"] == (1, 32, 32, 32)


def test_optimisers_are_those_of_the_papers():
    one, two, three = (nn.Linear(2, 2) for _ in range(3))
    kinds = [(one, "wang2020"), (two, "yu2019"), (three, "resnet50")]
    groups = adamw([(layer, recipe_for(name, "none")) for layer, name in kinds], None, None).param_groups
    found = [(group["lr"], group["weight_decay"], group["betas"], group["eps"]) for group in groups]
    assert found[:2] == [(1e-4, 0.0, (0.9, 0.999), 1e-8), (1e-3, 0.0, (0.0, 0.99), 1e-8)]
    assert found[2] == (3e-4, 0.01, (0.9, 0.999), 1e-8)


def test_rate_of_wang_falls_when_the_accuracy_stalls_until_it_ends():
    recipe = recipe_for("wang2020", "none")
    optimizer = adamw([(nn.Linear(2, 2), recipe)], None, None)
    schedule = scheduler_settings(optimizer, recipe, 100)
    assert (schedule["monitor"], schedule["interval"]) == ("val/accuracy", "epoch")
    rates = []
    for epoch in range(30):
        schedule["scheduler"].step(min(epoch, 3) * 0.1 + epoch * 1e-5)  # rises until the fourth epoch
        rates.append(optimizer.param_groups[0]["lr"])
        if has_levelled_off(optimizer, recipe):
            break
    # best in the fourth epoch, five without a better one after it, and so on
    assert rates == pytest.approx([1e-4] * 8 + [1e-5] * 5 + [1e-6] * 5 + [1e-7])
    assert rates[-1] < LEAST_RATE <= rates[-2]


def test_rate_of_yu_is_constant():
    recipe = recipe_for("yu2019", "none")
    assert scheduler_settings(adamw([(nn.Linear(2, 2), recipe)], None, None), recipe, 100) is None
