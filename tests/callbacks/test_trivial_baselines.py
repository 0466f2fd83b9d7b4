"""Which images trivial features are measured on, and what the format audit adds to them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from datamodules import GMDataModule
from lightning_modules.callbacks.trivial_baselines import file_accuracies, most_per_source
from lightning_modules.metrics.attribution import even_selection


def test_small_images_are_capped_by_number_and_large_ones_by_pixels():
    assert most_per_source(8, (32, 32)) == 500
    assert most_per_source(15, (256, 256)) == 273
    assert most_per_source(15, (1024, 1024)) == 100


def test_a_selection_is_even_over_each_source_and_takes_all_of_a_small_one():
    labels = np.array([0] * 1000 + [1] * 7 + [2] * 20)
    chosen = even_selection(labels, 10)
    assert chosen == sorted(set(chosen))
    assert [int((labels[chosen] == label).sum()) for label in range(3)] == [10, 7, 10]
    assert chosen[:10] == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert even_selection(labels, 5000) == list(range(1027))


def test_attributes_of_files_become_accuracies_with_intervals(tmp_path):
    rng = np.random.default_rng(0)
    for source, count, suffix in (("real-x", 40, "jpg"), ("gan-a", 30, "png")):
        (tmp_path / source).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / source / f"{number:05d}.{suffix}")
    datamodule = GMDataModule(root=str(tmp_path), format_audit="warn")
    with pytest.warns(UserWarning, match="can be told apart"):
        datamodule.setup()
    found = file_accuracies(datamodule.file_audit, 70, datamodule.sources)
    assert {"file_format", "file_extension", "file_all_of_them_together"} <= set(found)
    estimate = found["file_format"]
    assert (estimate.value, estimate.n, estimate.details["chance"]) == (1.0, 70, 0.5)
    assert 0.8 < estimate.low < 1.0
    assert estimate.details["what"] == "file format"


def test_files_that_are_alike_stand_at_chance_and_unaudited_ones_nowhere():
    (alike,) = file_accuracies([], 70, ["gan-a", "real-x"]).values()
    assert (alike.value, alike.low, alike.n) == (0.5, None, 70)
    assert alike.details["fitted_on"] == "nothing: all files are alike"
    assert file_accuracies(None, 70, ["gan-a", "real-x"]) == {}
