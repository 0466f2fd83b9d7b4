"""Names of tensors lose what wrappers put before them, in every reader of a state dict; nothing else is taken off."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lightning_modules.common.weights import read_state_dict, without_prefixes
from lightning_modules.fingerprints.decoders.losses.registry import make_loss
from lightning_modules.metrics.extractors import build_extractor
from lightning_modules.networks.source_network import SourceNetwork


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


WRAPPED = {
    "DataParallel": lambda network: nn.DataParallel(network),
    "compiled": lambda network: torch.compile(network),
    "both": lambda network: nn.DataParallel(torch.compile(network)),
    "average": lambda network: AveragedModel(network),
    "trainer's attribute": lambda network: nn.ModuleDict({"net": nn.ModuleDict({"generator": network})}),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_of_the_whole_are_taken_off(kind):
    network = small()
    expected = network.state_dict()
    found, lines = without_prefixes(WRAPPED[kind](network).state_dict())
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert f"of all {len(expected)} tensors: taken off" in lines[-1]
    assert ("bookkeeping of an average: n_averaged" in lines[0]) == (kind == "average")


def test_wrappers_of_a_part_are_taken_off_where_all_of_the_part_share_them():
    network = small()
    expected = network.state_dict()
    network[1] = nn.DataParallel(torch.compile(network[1]))
    found, lines = without_prefixes(network.state_dict())
    assert list(found) == list(expected)
    assert lines == (
        "prefix module. of all 7 tensors of 1.*: taken off",
        "prefix _orig_mod. of all 7 tensors of 1.*: taken off",
    )


def test_what_not_all_tensors_share_stays():
    state = {"module.weight": torch.ones(1), "bias": torch.ones(1)}
    assert without_prefixes(state) == (state, ())
    assert without_prefixes({}) == ({}, ())
    assert list(without_prefixes({"weight": torch.ones(1)})[0]) == ["weight"]
    known = {"features.0.weight": torch.ones(1), "features.1.weight": torch.ones(1)}
    assert list(without_prefixes(prefixed(known, "module."), ("features",))[0]) == list(known)
    assert list(without_prefixes(known)[0]) == ["0.weight", "1.weight"]


def test_a_file_of_a_wrapped_network_is_read_and_the_prefix_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    state = prefixed(small().state_dict(), "module._orig_mod.")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pt")
    save_file(state, tmp_path / "a.bin")  # told by its content
    for path in (tmp_path / "a.pt", tmp_path / "a.bin"):
        with caplog.at_level(logging.WARNING):
            assert set(read_state_dict(path)) == set(small().state_dict())
        assert f"{path}: prefix module._orig_mod. of all 9 tensors: taken off" in caplog.text
    torch.save({"state_dict": print}, tmp_path / "code.pt")
    for content in (b'{"users": 1}', b"hello", b"", b"\x80\x02}"):
        (tmp_path / "text.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"text\.json: not readable as tensors alone") as told:
            read_state_dict(tmp_path / "text.json")
        assert "arbitrary code" not in str(told.value)
    with pytest.raises(ValueError, match=r"code\.pt: not readable as tensors alone"):
        read_state_dict(tmp_path / "code.pt")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "network."])
def test_every_user_of_a_file_of_weights_takes_them_off(prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    torch.manual_seed(0)
    path = str(tmp_path / "w.pth")

    donor = timm.create_model("test_resnet", num_classes=4).state_dict()
    torch.save(prefixed(donor, prefix), path)
    backbone = SourceNetwork("test_resnet", 4, weights=path).backbone.state_dict()
    assert torch.equal(backbone["layer1.0.conv1.weight"], donor["layer1.0.conv1.weight"])

    donor = timm.create_model("test_resnet").state_dict()
    torch.save(prefixed(donor, prefix), path)
    extractor = build_extractor(f"timm:test_resnet:{path}").state_dict()
    assert any(torch.equal(donor["layer1.0.conv1.weight"], value) for value in extractor.values())

    stages = timm.create_model("test_resnet", features_only=True).state_dict()
    torch.save(prefixed(stages, prefix), path)
    loss = make_loss("features", network="test_resnet", weights=path)
    assert torch.equal(loss.state_dict()["network.conv1.0.weight"], stages["conv1.0.weight"])

    trunk = torchvision.models.squeezenet1_1(weights=None).features.state_dict()
    torch.save(prefixed(trunk, f"{prefix}features."), path)
    loss = make_loss("lpips", network="squeeze", trunk=path)
    assert torch.equal(loss.state_dict()["metric.net.slice1.0.weight"], trunk["0.weight"])
    assert caplog.text.count(f"prefix {prefix} of all") == 4
