"""Artifacts of 100,000 images in four spaces: memory does not grow with their number, and each search is exact."""

from __future__ import annotations

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from lightning_modules.common.content_ids import content_ids
from lightning_modules.representations.batches import Representations
from lightning_modules.representations.settings import ManifoldSettings

IMAGES, REALS, BATCH = 100_000, 5_000, 250
CHECKED = 20  # of the last batch, against all reals in double precision
GROWTH = 200.0
"""MiB that the tenfold of images may add: content ids, neighbours and places of features, 24 to 200 bytes an image."""


def small_network(folder: Path) -> str:
    """Weights of a small ResNet: what streams is the same, the 2,048 features of ResNet50 cost 40 times as much."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0)
    save_file(network.state_dict(), folder / "network.safetensors")
    return str(folder / "network.safetensors")


def spaces(folder: Path) -> dict[str, str | dict]:
    network = {"network": "test_resnet", "weights": small_network(folder), "resize": None, "crop": 32}
    return {"rgb": "rgb", "freq": "freq", "sl": {"name": "sl", **network}, "ssl": {"name": "ssl", **network}}


def pictures(first: int, count: int) -> torch.Tensor:
    """(count, 3, 32, 32) in 8 bits: coarse patterns with noise, each of its own number."""
    rng = np.random.default_rng([7, first, count])
    coarse = torch.from_numpy(rng.normal(0.5, 0.25, (count, 3, 5, 5)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")
    noise = torch.from_numpy(rng.normal(0, 0.02, smooth.shape).astype(np.float32))
    return ((smooth + noise).clamp(0, 1) * 255).round() / 255


class Reals:
    """Items as a data module's ``manifold_images``."""

    def __init__(self, count: int) -> None:
        images = pictures(10**8, count)
        self.content_ids = content_ids(images)
        self._images = (images * 255).to(torch.uint8)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: int) -> dict:
        return {"image": self._images[place], "content_id": int(self.content_ids[place])}


def stream(folder: Path, space: str | dict, images: int, reals: int, batch: int = BATCH) -> tuple[float, float, float]:
    """Artifacts of all images; growth of memory after the first thousand in MiB, seconds, largest error of a search."""
    known = Reals(reals)
    represent = Representations(space, ["artifact"], [], 0, ManifoldSettings())
    represent.prepare(
        SimpleNamespace(manifold_images=lambda: known, cache_dir=folder), torch.device("cpu"), True, lambda: None
    )
    begin, grown_from = time.process_time(), 0
    (name,) = represent.main
    for first in range(0, images, batch):
        seen = pictures(first, batch)
        found = represent({"image": seen, "content_id": content_ids(seen)}, [name], distances=True)
        if first <= 1000:
            grown_from = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown_from) / 1024
    seconds = time.process_time() - begin
    represent.flush()
    return grown, seconds, largest_error(represent, seen, found.distance)


def largest_error(represent: Representations, seen: torch.Tensor, distance: torch.Tensor) -> float:
    """Of the distances of some images, relative to those from every real in double precision."""
    (inside,) = represent._spaces.values()
    points = inside.points(torch.arange(len(inside.content_ids)), torch.empty(0, dtype=torch.float64))
    asked = inside.embedding(seen[:CHECKED]).double()
    expected = torch.stack([(points - point).square().flatten(1).sum(1).min().sqrt() for point in asked])
    return float(((distance[:CHECKED] - expected).abs() / expected).max())


def on_one_thread(*arguments: Any) -> tuple[float, float, float]:
    """`stream` in a process that does nothing else."""
    torch.set_num_threads(1)
    return stream(*arguments)


def measured(folder: Path, name: str, images: int, reals: int) -> tuple[float, float, float]:
    """`stream` in a process of its own, so that its memory is its own."""
    folder.mkdir()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(on_one_thread, folder, spaces(folder)[name], images, reals).result()


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["rgb", "freq", "sl", "ssl"])
def test_artifacts_stream_through_bounded_memory(name, tmp_path):
    less, _, _ = measured(tmp_path / "less", name, IMAGES // 10, REALS)
    grown, seconds, error = measured(tmp_path / "all", name, IMAGES, REALS)
    print(f"\n{name}: {IMAGES:,} images, {REALS:,} reals: memory grows by {grown:.0f} MiB (a tenth: {less:.0f}),")
    print(f"  {1000 * seconds / IMAGES:.2f} ms of processor time an image; error of a distance {error:.1e}")
    assert grown - less < GROWTH
    assert error < 1e-5
