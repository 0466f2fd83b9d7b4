"""Which network an attributor gets by the size of its images, the small CNN, and the scale of a network's input."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.networks import ControlledNetworks, SourceNetwork, VectorHead, recipe_for
from lightning_modules.networks.recipes import choose_network
from lightning_modules.networks.source_network import SmallCNN

CHOSEN = {part: ("small_cnn_16", "imagenet") for part in ("main", "control")}
SHAPES = {"artifact": (3, 16, 16), "raw": (3, 16, 16)}


@pytest.mark.parametrize(
    ("network", "stem", "shape", "chosen"),
    [
        ("auto", "auto", (3, 32, 32), ("small_cnn", "imagenet")),
        ("auto", "auto", (3, 63, 200), ("small_cnn", "imagenet")),
        ("auto", "auto", (3, 64, 64), ("resnet50", "small")),
        ("auto", "auto", (1, 128, 128), ("resnet50", "imagenet")),
        ("resnet18", "auto", (3, 32, 32), ("resnet18", "small")),
        ("resnet18", "patch", (3, 32, 32), ("resnet18", "patch")),
        ("vit_tiny_patch16_224", "auto", (3, 32, 32), ("vit_tiny_patch16_224", "imagenet")),
        ("auto", "auto", (768,), ("mlp", "auto")),
        ("linear", "auto", (768,), ("linear", "auto")),
    ],
)
def test_network_and_stem_follow_from_the_size_unless_they_are_named(network, stem, shape, chosen):
    assert choose_network(network, stem, shape) == chosen


def test_networks_of_the_other_kind_are_refused():
    with pytest.raises(ValueError, match="it takes vectors"):
        choose_network("linear", "auto", (3, 32, 32))
    with pytest.raises(ValueError, match="expected network auto or linear or mlp"):
        choose_network("resnet18", "auto", (10,))
    with pytest.raises(ValueError, match=r"shape \(3, 4\)"):
        choose_network("auto", "auto", (3, 4))


@pytest.mark.parametrize(("name", "features"), [("linear", 10), ("mlp_bn", 128), ("mlp", 256)])
def test_vectors_are_standardised_and_classified_by_a_head(name, features):
    head = VectorHead(name, 10, 4, seed=1)
    vectors = torch.rand(6, 10) * 3 + 1
    head.set_input_statistics((vectors.mean(0), vectors.std(0)))
    logits, found = head(vectors)
    assert (logits.shape, found.shape, head.num_features) == ((6, 4), (6, features), features)
    torch.testing.assert_close(head.classifier(found), logits)
    assert all(
        torch.equal(a, b) for a, b in zip(head.parameters(), VectorHead(name, 10, 4, 1).parameters(), strict=True)
    )


def test_images_of_one_channel_are_taken():
    for stem in ("imagenet", "small", "patch"):
        assert SourceNetwork("resnet10t", 5, stem, channels=1)(torch.rand(2, 1, 32, 32))[0].shape == (2, 5)
    assert SourceNetwork("small_cnn_16", 5, channels=1)(torch.rand(2, 1, 32, 32))[0].shape == (2, 5)


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
    network.set_input_statistics((mean, std))
    torch.testing.assert_close(network(images)[0], expected)
    assert {"input_mean", "input_std"} <= network.state_dict().keys()


def test_each_network_gets_the_statistics_of_its_own_input():
    networks = ControlledNetworks(CHOSEN, ["artifact"], ["raw"], SHAPES, num_classes=3, control_seeds=2)
    statistics = {"artifact": (torch.zeros(3), torch.full((3,), 0.2)), "raw": (torch.ones(3), torch.full((3,), 0.3))}
    networks.set_input_statistics(statistics)
    assert networks.networks["main"].input_std.tolist() == pytest.approx([0.2] * 3)
    for name in ("raw_0", "raw_1"):
        assert networks.networks[name].input_mean.tolist() == [1.0] * 3


@pytest.mark.parametrize("mirror", [True, False])
def test_an_image_and_its_mirror_image_get_one_answer_where_asked(mirror):
    torch.manual_seed(0)
    networks = ControlledNetworks(CHOSEN, ["artifact"], [], SHAPES, num_classes=2).eval()
    image = torch.rand(3, 3, 16, 16)
    (logits, features), (other_logits, other_features) = (
        networks.answers({"artifact": seen}, mirrored={"artifact": seen.flip(-1)} if mirror else None)["main"]
        for seen in (image, image.flip(-1))
    )
    assert torch.allclose(logits.softmax(1), other_logits.softmax(1), atol=1e-6) == mirror
    assert torch.allclose(features, other_features, atol=1e-6) == mirror
    if mirror:
        single = [networks({"artifact": seen})["main"][0].softmax(1) for seen in (image, image.flip(-1))]
        torch.testing.assert_close(logits.softmax(1), (single[0] + single[1]) / 2)
