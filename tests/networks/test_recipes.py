"""Which network an attributor gets by the size of its images, the small CNN, and the scale of a network's input."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.networks import ControlledNetworks, SourceNetwork, choose_network, recipe_for
from lightning_modules.networks.source_network import SmallCNN


@pytest.mark.parametrize(
    ("network", "stem", "size", "chosen"),
    [
        ("auto", "auto", (32, 32), ("small_cnn", "imagenet")),
        ("auto", "auto", (63, 200), ("small_cnn", "imagenet")),
        ("auto", "auto", (64, 64), ("resnet50", "small")),
        ("auto", "auto", (128, 128), ("resnet50", "imagenet")),
        ("resnet18", "auto", (32, 32), ("resnet18", "small")),
        ("resnet18", "patch", (32, 32), ("resnet18", "patch")),
        ("vit_tiny_patch16_224", "auto", (32, 32), ("vit_tiny_patch16_224", "imagenet")),
    ],
)
def test_network_and_stem_follow_from_the_size_unless_they_are_named(network, stem, size, chosen):
    assert choose_network(network, stem, size) == chosen


def test_pretrained_weights_are_trained_more_gently():
    assert recipe_for("resnet50", "imagenet").learning_rate < recipe_for("resnet50", "none").learning_rate
    assert recipe_for("small_cnn", "none").learning_rate == 3e-3


def test_small_cnn_sees_every_pixel_in_its_first_two_layers():
    network = SmallCNN(5)
    maps, shapes = torch.zeros(2, 3, 32, 32), []
    for layer in network.layers:
        maps = layer(maps)
        if isinstance(layer, torch.nn.Conv2d):
            shapes.append(maps.shape[-1])
    assert shapes == [32, 32, 16, 16, 8, 8]


@pytest.mark.parametrize(("name", "width"), [("small_cnn", 32), ("small_cnn_16", 16)])
def test_small_cnn_serves_as_the_source_network(name, width):
    network = SourceNetwork(name, 5).eval()
    assert network.num_features == 4 * width
    assert recipe_for(name, "none") == recipe_for("small_cnn", "none")
    logits, features = network(torch.rand(2, 3, 20, 28))
    assert logits.shape == (2, 5)
    assert features.shape == (2, network.num_features)
    torch.testing.assert_close(network.backbone.classifier(features), logits)


def test_small_cnn_has_no_imagenet_weights_and_one_stem():
    with pytest.raises(ValueError, match="small_cnn has no ImageNet weights"):
        SourceNetwork("small_cnn", 5, weights="imagenet")
    with pytest.raises(ValueError, match="use `imagenet`"):
        SourceNetwork("small_cnn", 5, stem="patch")


def test_input_is_standardised_by_the_statistics_that_are_set():
    torch.manual_seed(0)
    network = SourceNetwork("small_cnn", 3).eval()
    images = torch.randn(4, 3, 16, 16) * 0.1 + 0.5
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.1, 0.2, 0.0])  # the last channel is constant
    expected, _ = network((images - mean[:, None, None]) / torch.tensor([0.1, 0.2, 1.0])[:, None, None])
    network.set_input_statistics(mean, std)
    torch.testing.assert_close(network(images)[0], expected)
    assert {"input_mean", "input_std"} <= network.state_dict().keys()


def test_each_network_gets_the_statistics_of_its_own_view():
    shape = {"name": "small_cnn"}
    networks = ControlledNetworks(shape, "artifact", shape, ["raw"], 2, num_classes=3, seed=0)
    statistics = {"artifact": (torch.zeros(3), torch.full((3,), 0.2)), "raw": (torch.ones(3), torch.full((3,), 0.3))}
    networks.set_input_statistics(statistics)
    assert networks.networks["main"].input_std.tolist() == pytest.approx([0.2] * 3)
    for name in ("raw_0", "raw_1"):
        assert networks.networks[name].input_mean.tolist() == [1.0] * 3


@pytest.mark.parametrize("mirror", [True, False])
def test_an_image_and_its_mirror_image_get_one_answer_where_asked(mirror):
    torch.manual_seed(0)
    networks = ControlledNetworks({"name": "small_cnn_16"}, "artifact", {}, [], 1, num_classes=2, seed=0).eval()
    image = torch.rand(3, 3, 16, 16)
    (logits, features), (other_logits, other_features) = (
        networks.answers({"artifact": view}, mirror=mirror)["main"] for view in (image, image.flip(-1))
    )
    assert torch.allclose(logits.softmax(1), other_logits.softmax(1), atol=1e-6) == mirror
    assert torch.allclose(features, other_features, atol=1e-6) == mirror
    if mirror:
        single = [networks({"artifact": view})["main"][0].softmax(1) for view in (image, image.flip(-1))]
        torch.testing.assert_close(logits.softmax(1), (single[0] + single[1]) / 2)
