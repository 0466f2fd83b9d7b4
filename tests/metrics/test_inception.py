"""The Inception of the Frechet inception distance: golden features were written by torch-fidelity's network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from inception_weights import seeded_image, seeded_inception

from lightning_modules.metrics.inception import InceptionFeatures, load_inception, resize_as_tensorflow

GOLDEN = Path(__file__).parent / "golden" / "inception_features.npy"  # [size, every 32nd feature]


@pytest.fixture(scope="module")
def state():
    return seeded_inception()


@pytest.mark.parametrize(("position", "side"), [(0, 32), (1, 400)], ids=["enlarged", "reduced"])
def test_features_are_those_of_the_reference(state, position, side):
    network = InceptionFeatures(state).eval()
    with torch.no_grad():
        found = network(seeded_image(side))
    assert found.shape == (1, 2048)
    np.testing.assert_allclose(found[0, ::32].numpy(), np.load(GOLDEN)[position], rtol=1e-4, atol=1e-4)


def test_scaling_reads_at_multiples_of_the_ratio():
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    # 4 -> 8 px reads at 0, 0.5, 1, ... and repeats the last pixel; half-pixel centres would start at -0.25
    assert resize_as_tensorflow(ramp, 8)[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
    assert resize_as_tensorflow(ramp, 2)[0, 0, 0].tolist() == [0, 2]  # reduced without averaging
    assert torch.equal(resize_as_tensorflow(ramp.mT, 8), resize_as_tensorflow(ramp, 8).mT)


@pytest.mark.slow
def test_local_file_is_read_and_its_hash_becomes_part_of_the_name(state, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    network, name = load_inception(path)
    assert name.startswith("inception_")  # not the published weights: not fid_inception
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(network.network.Mixed_7c.branch_pool.conv.weight, state["Mixed_7c.branch_pool.conv.weight"])
    torch.save({name: value for name, value in state.items() if "Mixed_7c" not in name}, path)
    with pytest.raises(ValueError, match=r"missing \['Mixed_7c.*inception:PATH"):
        load_inception(path)


def test_weights_of_a_wrapped_network_are_read(state, tmp_path):
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "w.pth")
    network, _ = load_inception(tmp_path / "w.pth")
    name = "Mixed_5b.branch1x1.conv.weight"
    assert torch.equal(network.network.state_dict()[name], state[name])


def test_weights_of_another_network_are_named(state, tmp_path):
    wrong = {name: value for name, value in state.items() if name.startswith("fc")}
    with pytest.raises(ValueError, match=r"missing \['Conv2d_1a_3x3.conv.weight', .*\(\d+\)"):
        InceptionFeatures(wrong)
    path = tmp_path / "other.pth"
    torch.save({**wrong, "AuxLogits.fc.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"other\.pth: not the network of 2015-12-05.*unexpected \['AuxLogits"):
        load_inception(path)


def test_code_truncation_and_absence_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file\. Copy weights-inception-2015-12-05-6726825d\.pth"):
        load_inception(tmp_path / "none.pth")
    path = tmp_path / "code.pth"
    torch.save({"fc.weight": Path("somewhere")}, path)
    with pytest.raises(ValueError, match="not readable as tensors alone"):
        load_inception(path)
    torch.save({"fc.weight": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="not readable as tensors alone"):
        load_inception(path)
    torch.save([torch.zeros(2)], path)
    with pytest.raises(ValueError, match="holds list, expected a mapping"):
        load_inception(path)


def test_without_a_network_the_error_names_the_local_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"could not be fetched .*name it: inception:PATH"):
        load_inception()
