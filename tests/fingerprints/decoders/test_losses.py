"""Image losses: against the libraries they stand for, gradients, refusals."""

from __future__ import annotations

import lpips
import pytest
import timm
import torch
import torchvision

from lightning_modules.fingerprints.decoders.losses import make_loss


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 32, 32, generator=generator), torch.rand(2, 3, 32, 32, generator=generator)


def test_pixels_sum_the_scales(pair):
    a, b = pair
    pool = torch.nn.functional.avg_pool2d
    expected = (a - b).square().mean(dim=(1, 2, 3)) + (pool(a, 2) - pool(b, 2)).square().mean(dim=(1, 2, 3))
    assert torch.allclose(make_loss("pixels", scales=2)(a, b), expected)
    assert len(make_loss("pixels", scales=9).features(a)) == 4  # 32, 16, 8, 4


@pytest.mark.parametrize(("network", "trunk"), [("squeeze", "squeezenet1_1"), ("alex", "alexnet")])
def test_lpips_equals_the_library(network, trunk, pair, tmp_path):
    a, b = (torch.nn.functional.interpolate(x, size=64) for x in pair)
    torch.manual_seed(0)
    weights = getattr(torchvision.models, trunk)(weights=None).state_dict()
    torch.save(weights, tmp_path / "trunk.pth")
    ours = make_loss("lpips", network=network, trunk=str(tmp_path / "trunk.pth"))
    reference = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
    state = {key: weights[f"features.{key.split('.', 1)[1]}"] for key in reference.net.state_dict()}
    reference.net.load_state_dict(state)
    with torch.no_grad():
        expected = reference.eval()(a * 2 - 1, b * 2 - 1).flatten()
        assert torch.allclose(ours(a, b), expected, rtol=1e-4)
        assert float(expected.min()) > 0
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_lpips_without_weights_says_where_to_put_them(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"vgg16-\w+\.pth and could not fetch .*put that file there"):
        make_loss("lpips", network="vgg")
    with pytest.raises(FileNotFoundError, match="expected the weights of torchvision's vgg16"):
        make_loss("lpips", network="vgg", trunk=str(tmp_path / "none.pth"))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"found weights without features\."):
        make_loss("lpips", network="vgg", trunk=str(tmp_path / "bad.pth"))
    with pytest.raises(ValueError, match="found network 'vggg'"):
        make_loss("lpips", network="vggg")


def test_network_features_are_those_of_timm(pair, tmp_path):
    a, b = pair
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False, features_only=True)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    loss = make_loss("features", network="test_resnet", weights=str(tmp_path / "w.pth"), stages=[1, 2])
    assert len(loss.features(a)) == 2
    value = loss(a, b)
    assert value.shape == (2,)
    assert float(value.min()) > 0
    assert torch.allclose(loss(a, a), torch.zeros(2))
    norms = loss.features(a)[0].square().sum(dim=1)
    assert float(norms.max()) <= 1.0 + 1e-4
    with pytest.raises(FileNotFoundError, match="found no file"):
        make_loss("features", network="test_resnet", weights=str(tmp_path / "none.pth"))


@pytest.mark.parametrize(
    "options", [{"name": "pixels"}, {"name": "features", "network": "test_resnet", "weights": "random"}]
)
def test_gradients_reach_the_images(options, pair):
    a, b = pair
    a = a.clone().requires_grad_(True)
    loss = make_loss(**options)
    loss(a, b)[0].backward()
    assert float(a.grad[0].abs().sum()) > 0
    assert float(a.grad[1].abs().sum()) == 0


def test_an_unknown_loss_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="found loss 'pixel'; did you mean pixels"):
        make_loss("pixel")
