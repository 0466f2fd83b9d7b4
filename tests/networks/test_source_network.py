"""Stems, weights and features of the network that names the source."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from lightning_modules.networks import STEMS, SourceNetwork
from lightning_modules.networks.recipes import warmup_cosine


@pytest.mark.parametrize("stem", STEMS)
def test_logits_and_features_of_each_stem(stem):
    network = SourceNetwork("resnet10t", 5, stem=stem)
    logits, features = network(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 5)
    assert features.shape == (2, network.num_features)
    torch.testing.assert_close(network.backbone.get_classifier()(features), logits)


def test_paper_network_has_2048_features():
    assert SourceNetwork("resnet50", 3).num_features == 2048


def test_patch_stem_loses_no_pixel():
    unshuffle, convolution = SourceNetwork("resnet10t", 2, stem="patch").backbone.conv1
    image = torch.randn(1, 3, 32, 32)
    blocks = unshuffle(image)
    assert blocks.shape == (1, 48, 8, 8)
    assert torch.equal(torch.nn.functional.pixel_shuffle(blocks, 4), image)
    assert convolution.stride == (1, 1)


def test_initialisation_follows_the_seed_and_leaves_the_global_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = SourceNetwork("resnet10t", 2, seed=1).state_dict()
    assert torch.equal(torch.rand(1), expected)
    same, other = (SourceNetwork("resnet10t", 2, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["backbone.fc.weight"], other["backbone.fc.weight"])


def test_input_size_enlarges_before_the_stem():
    network = SourceNetwork("resnet10t", 2, input_size=64)
    seen = []
    network.backbone.conv1.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    network(torch.randn(1, 3, 32, 32))
    assert seen == [(1, 3, 64, 64)]


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("stem", ["imagenet", "patch"])
def test_local_weights_fill_all_but_head_and_new_stem(tmp_path, suffix, stem):
    donor = timm.create_model("resnet10t", num_classes=1000)
    path = tmp_path / f"weights.{suffix}"
    save_file(donor.state_dict(), path) if suffix == "safetensors" else torch.save(donor.state_dict(), path)
    own = SourceNetwork("resnet10t", 4, stem=stem, weights=str(path)).backbone.state_dict()
    kept = [key for key, value in donor.state_dict().items() if key in own and torch.equal(own[key], value)]
    changed = [key for key in own if key not in kept]
    assert all(key.startswith(("fc.", "conv1.") if stem == "patch" else ("fc.",)) for key in changed)


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(timm.create_model("resnet18", num_classes=10).state_dict(), path)
    with pytest.raises(ValueError, match=r"do not fit resnet10t: missing \["):
        SourceNetwork("resnet10t", 4, weights=str(path))


def test_weights_with_code_are_refused(tmp_path):
    path = tmp_path / "code.pth"
    torch.save({"state_dict": print}, path)
    with pytest.raises(ValueError, match="not readable as tensors alone"):
        SourceNetwork("resnet10t", 4, weights=str(path))


def test_missing_weights_file():
    with pytest.raises(FileNotFoundError, match="no such file"):
        SourceNetwork("resnet10t", 4, weights="nowhere.pth")


def test_unreachable_hub_names_the_local_alternative(monkeypatch):
    real = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host")
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FileNotFoundError, match=r"weights: PATH.*weights: none"):
        SourceNetwork("resnet10t", 4, weights="imagenet")


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="expected one of imagenet, small, patch"):
        SourceNetwork("resnet10t", 2, stem="tiny")
    with pytest.raises(ValueError, match="did you mean resnet"):
        SourceNetwork("resnet5000", 2)
    with pytest.raises(ValueError, match="use `imagenet`"):
        SourceNetwork("vit_tiny_patch16_224", 2, stem="patch")


def test_schedule_warms_up_then_falls_to_zero():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = warmup_cosine(optimizer, 100, warmup_fraction=0.1)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0, abs=0.05)
    assert schedule.get_last_lr()[0] == pytest.approx(0.0)


def test_momentum_moves_against_the_rate():
    """As torch's OneCycleLR: 0.95 at the ends, 0.85 at the peak."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=2.0)
    schedule = warmup_cosine(optimizer, 100, warmup_fraction=0.3, cycle_momentum=True)
    betas = []
    for _ in range(100):
        betas.append(optimizer.param_groups[0]["betas"])
        optimizer.step()
        schedule.step()
    assert betas[0][0] == pytest.approx(0.95, abs=0.005)
    assert betas[29][0] == pytest.approx(0.85)
    assert betas[99][0] == pytest.approx(0.95, abs=0.001)
    assert {second for _, second in betas} == {0.999}
