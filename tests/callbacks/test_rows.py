"""Per-image rows of an attributor: what they hold."""

from __future__ import annotations

import torch

from lightning_modules.callbacks.prediction_rows import rows_of

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
