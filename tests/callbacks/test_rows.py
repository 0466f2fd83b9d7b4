"""Per-image rows: what they hold, their order over processes, and no image twice."""

from __future__ import annotations

import pytest
import torch
from torch import distributed

from lightning_modules.callbacks.prediction_rows import rows_of
from lightning_modules.common.distributed import gather_rows
from lightning_modules.reporting.attribution_page import confusion_of

SOURCES = ["gan-a", "real-b"]


def outputs(indices):
    n = len(indices)
    probabilities = torch.tensor([[0.25, 0.75]] * n, dtype=torch.float64)
    return {
        "index": torch.tensor(indices),
        "path": [f"{index}.png" for index in indices],
        "content_id": torch.arange(n) + 255,
        "probabilities": probabilities,
        "distance": torch.full((n,), 0.5, dtype=torch.float64),
        "label": torch.zeros(n, dtype=torch.int64),
    }


def test_a_row_names_sources_and_hex_content_id():
    (row,) = rows_of(outputs([3]), SOURCES)
    assert row == {
        "index": 3,
        "file": "3.png",
        "source": "gan-a",
        "predicted": "real-b",
        "probabilities": {"gan-a": 0.25, "real-b": 0.75},
        "distance": 0.5,
        "content_id": "00000000000000ff",
    }


def test_unlabelled_images_have_no_true_source():
    unlabelled = outputs([0])
    del unlabelled["label"], unlabelled["distance"]  # nor a distance, where no nearest real was searched
    assert not {"source", "distance"} & set(rows_of(unlabelled, SOURCES)[0])


def test_rows_of_several_processes_are_put_in_order(monkeypatch):
    shares = [rows_of(outputs([0, 2]), SOURCES), rows_of(outputs([1]), SOURCES)]
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather_object", lambda into, mine: into.__setitem__(slice(None), shares))
    assert [row["index"] for row in gather_rows(shares[0])] == [0, 1, 2]


def test_an_image_evaluated_twice_is_an_error():
    with pytest.raises(RuntimeError, match="two processes"):
        gather_rows(rows_of(outputs([1, 1]), SOURCES))


def test_confusion_counts_true_by_predicted():
    rows = rows_of(outputs([0, 1]), SOURCES)
    rows[1]["predicted"] = "gan-a"
    assert confusion_of(rows, SOURCES).tolist() == [[1, 1], [0, 0]]
