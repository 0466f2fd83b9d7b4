from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.common.files import atomic_file, write_bytes, write_text
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.run_files import (
    read_metrics,
    write_json,
    write_jsonl,
    write_metrics,
)


def broken_rows() -> Iterator[dict[str, Any]]:
    yield {"file": "a.png"}
    raise RuntimeError("the second image is broken")


class Unwritable:
    pass


@pytest.mark.parametrize("before", [None, "what was there"])
def test_failed_write_leaves_what_was_there(before: str | None, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    if before is not None:
        path.write_text(before)
    with pytest.raises(RuntimeError, match="second image"):
        write_jsonl(path, broken_rows())
    with pytest.raises(TypeError, match="Unwritable"):
        write_json(path, {"fine": 1, "bad": Unwritable()})
    assert [file.name for file in tmp_path.iterdir()] == ([] if before is None else ["rows.jsonl"])
    assert before is None or path.read_text() == before


def test_bytes_of_file_names_that_are_no_text_are_escaped_and_read_back(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.png")
    write_json(tmp_path / "a.json", {"images": name})
    write_jsonl(tmp_path / "a.jsonl", [{"images": name}])
    write_text(tmp_path / "a.txt", name)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"images": name}
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8")) == {"images": name}
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == r"caf\udce9.png"


def test_target_is_whole_or_absent_while_writing(tmp_path: Path):
    path = tmp_path / "deep" / "er" / "out.bin"
    with atomic_file(path) as partial:
        partial.write_bytes(b"half")
        assert not path.exists()
        assert partial.parent == path.parent  # a rename within one file system
    assert path.read_bytes() == b"half"
    write_bytes(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_json_keeps_precision_and_order(tmp_path: Path):
    value = {"z": 0.1 + 0.2, "a": [1e-300, 2**53 + 1, 1 / 3], "text": "é"}
    write_json(tmp_path / "x.json", value)
    found = json.loads((tmp_path / "x.json").read_text())
    assert found == value
    assert list(found) == ["z", "a", "text"]


def test_json_takes_arrays_tensors_paths_and_undefined_numbers(tmp_path: Path):
    write_json(
        tmp_path / "x.json",
        {
            "array": np.arange(3),
            "tensor": torch.tensor([1.5, math.nan]),
            "path": Path("a/b"),
            "inf": (np.float64("inf"),),
        },
    )
    text = (tmp_path / "x.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == {"array": [0, 1, 2], "tensor": [1.5, None], "path": "a/b", "inf": [None]}


def test_metrics_file_has_the_agreed_form(tmp_path: Path):
    metrics = {
        "test/fdr": Estimate(41.25, 40.0, 42.5, 1800, "delete-half jackknife 95%", {"d": 2048}),
        "test/accuracy": Estimate(1 / 3, 0.3, 0.4, 1800, "wilson 95%", {"chance": 1 / 6}),
    }
    write_metrics(tmp_path / "metrics.json", metrics)
    raw = json.loads((tmp_path / "metrics.json").read_text())
    assert list(raw) == ["test/accuracy", "test/fdr"]
    assert raw["test/accuracy"] == {
        "value": 1 / 3,
        "low": 0.3,
        "high": 0.4,
        "n": 1800,
        "interval": "wilson 95%",
        "chance": 1 / 6,
    }
    assert read_metrics(tmp_path) == read_metrics(tmp_path / "metrics.json") == metrics
    # another order of the same metrics gives the same file
    write_metrics(tmp_path / "again.json", dict(reversed(metrics.items())))
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "metrics.json").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "metrics.json: Expecting"),
        ("[1]", "found a list"),
        ('{"test/accuracy": 0.5}', "test/accuracy is 0.5"),
        ('{"test/accuracy": {"value": 0.5, "low": 0, "high": 1, "n": 3}}', r"\['interval'\] missing"),
    ],
)
def test_unreadable_metrics_say_what_is_wrong(text: str, message: str, tmp_path: Path):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_metrics(tmp_path)


def test_absent_metrics_say_who_writes_them(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"evaluate\.py test"):
        read_metrics(tmp_path)
