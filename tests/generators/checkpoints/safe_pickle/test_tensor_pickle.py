"""What is read is what torch and pickle read, from every format they write."""

from __future__ import annotations

import argparse
import io
import pickle
import re
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_modules.generators.checkpoints import safe_pickle
from lightning_modules.generators.checkpoints.safe_pickle import (
    PickledGlobal,
    PickledObject,
    module_tensors,
    read_tensor_pickle,
)
from lightning_modules.generators.checkpoints.stored import CheckpointError


def everything():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.rand(5, 3)).sum().backward()
    optimiser.step()
    grid = torch.arange(24.0).reshape(4, 6)
    return {
        "state": net.state_dict(),
        "optimiser": optimiser.state_dict(),
        "parameter": net[0].weight,
        "args": argparse.Namespace(size=256, name="a"),
        "views": [grid, grid[1:, ::2], grid.t(), grid[2], torch.ones(1).expand(5)],
        "kinds": [torch.arange(5).to(dtype) for dtype in (torch.int64, torch.uint8, torch.bool, torch.float16)],
        "more kinds": [torch.ones(3, dtype=torch.bfloat16), torch.ones(2, dtype=torch.complex64), torch.zeros(0, 3)],
        "arrays": [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3))],
        "numbers": [np.float64(2.5), np.int32(-3), 10**30, 1j, True, None, -0.5],
        "names": [torch.float16, torch.Size([1, 2]), b"bytes", bytearray(b"more"), "text \u00fc"],
        "containers": (OrderedDict(a=1), defaultdict(dict, {1: {}}), {1, 2}, frozenset([3]), [[[]]], {(1, "a"): ()}),
    }


def check_equal(expected, found):
    if isinstance(expected, torch.Tensor):
        assert type(found) is torch.Tensor
        assert torch.equal(expected.detach(), found)
        assert expected.stride() == found.stride()
    elif isinstance(expected, dict):
        assert list(expected) == list(found)
        for key, value in expected.items():
            check_equal(value, found[key])
    elif isinstance(expected, list | tuple):
        assert isinstance(found, type(expected) if not isinstance(expected, torch.Size) else tuple)
        assert len(expected) == len(found)
        for one, other in zip(expected, found, strict=True):
            check_equal(one, other)
    elif isinstance(expected, np.ndarray):
        assert expected.dtype == found.dtype
        assert expected.flags.f_contiguous == found.flags.f_contiguous
        np.testing.assert_array_equal(expected, found)
    elif isinstance(expected, argparse.Namespace):
        assert found.class_name == "argparse.Namespace"
        assert found.state == vars(expected)
    else:
        assert expected == found


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read_as_torch_reads_them(zipped, protocol, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(everything(), path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    check_equal(torch.load(path, weights_only=False), read_tensor_pickle(path))


@pytest.mark.parametrize("protocol", range(6))
def test_bare_pickles_are_read_as_pickle_reads_them(protocol, tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(everything(), protocol))
    check_equal(pickle.loads(path.read_bytes()), read_tensor_pickle(path))


def test_tensors_that_share_a_storage_share_it_still(tmp_path):
    whole = torch.zeros(6)
    torch.save([whole, whole[2:]], tmp_path / "a.pt")
    first, second = read_tensor_pickle(tmp_path / "a.pt")
    second.fill_(1.0)
    assert first.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert torch.load(tmp_path / "a.pt")[0].sum() == 0  # the file itself is not written to


def test_a_pickled_module_gives_its_state_dict(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.Sequential(torch.nn.BatchNorm1d(4)))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": net}))
    record = read_tensor_pickle(tmp_path / "a.pkl")["G_ema"]
    assert isinstance(record, PickledObject)
    check_equal(dict(net.state_dict()), module_tensors(record))


def test_modules_within_themselves_are_refused():
    record = PickledObject("Loop", state={"_modules": {}})
    record.state["_modules"]["again"] = record
    with pytest.raises(CheckpointError, match="nested without end"):
        module_tensors(record)


def test_classes_of_lightning_stay_names(tmp_path):
    # two lines name a class, as a Lightning checkpoint has it among the keys of its callbacks
    name = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"
    (tmp_path / "a.ckpt").write_bytes(b"\x80\x02}" + name + b"}X\x04\x00\x00\x00bestK\x07ss.")
    content = read_tensor_pickle(tmp_path / "a.ckpt")
    key = PickledGlobal("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    assert content == {key: {"best": 7}}


def test_files_of_python_2_are_read(tmp_path):
    storage = b"(S'storage'\nctorch\nFloatStorage\nS'k'\nS'cpu'\nK\x02Nt"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"QK\x00(K\x02t(K\x01tI00\nccollections\nOrderedDict\n)RtR"
    )
    start = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    numbers = (2).to_bytes(8, "little") + np.array([1.5, -2.0], dtype="<f4").tobytes()
    old = start + b"\x80\x02}U\x06weight" + tensor + b"s." + pickle.dumps(["k"], 2) + numbers
    (tmp_path / "a.pt").write_bytes(old)
    assert torch.load(io.BytesIO(old), weights_only=False)["weight"].tolist() == [1.5, -2.0]
    assert read_tensor_pickle(tmp_path / "a.pt")["weight"].tolist() == [1.5, -2.0]


def test_nothing_outside_the_package_imports_a_file_of_it():
    root = Path(safe_pickle.__file__).parents[3]
    inner = re.compile(r"safe_pickle\.(files|globals|machine)\b")
    others = [path for path in root.rglob("*.py") if path.parent.name != "safe_pickle"]
    assert not [path for path in others if inner.search(path.read_text())]
