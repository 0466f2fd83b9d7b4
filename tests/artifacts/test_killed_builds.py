"""A manifold's build that is killed or stopped is continued to the same bits; what others have left is removed."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from killing import alive, kill, start, wait_until
from reals_for_tests import FlatEmbedding, random_bytes, smooth_bytes

from lightning_modules.artifacts import Manifold, build_embedding, manifold_build
from lightning_modules.artifacts.embeddings.registry import Embedding


class Reals:
    """Map-style images that take a while; `read` says which were asked for."""

    def __init__(self, images: torch.Tensor, seconds: float = 0.0, stop_at: int | None = None) -> None:
        self.images, self.seconds, self.stop_at, self.read = images, seconds, stop_at, []

    def __len__(self) -> int:
        return len(self.images)

    @property
    def content_ids(self) -> torch.Tensor:
        return torch.arange(500, 500 + len(self))

    def __getitem__(self, index: int) -> dict:
        if index == self.stop_at:
            raise KeyboardInterrupt
        time.sleep(self.seconds)
        self.read.append(index)
        return {"image": self.images[index], "content_id": 500 + index}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(manifold_build, "_BATCH", 16)


def build_slowly(
    folder: Path, images: torch.Tensor, embedding: Embedding, workers: int = 0, seconds: float = 0.004
) -> None:
    Manifold.build(folder, Reals(images, seconds), embedding, num_workers=workers)


def left(folder: Path) -> list[Path]:
    begun = f".{folder.name}.*.building"  # a new folder has its whole name once it is locked
    return sorted(folder.parent.glob(begun))


def half_built(folder: Path, images: torch.Tensor, embedding: Embedding, number: int = signal.SIGKILL) -> Path:
    process = start(build_slowly, folder, images, embedding)
    wait_until(lambda: [path for path in left(folder) if (path / "identifiers.bin").exists()], process)
    wait_until(lambda: (left(folder)[0] / "identifiers.bin").stat().st_size >= 8 * 48, process)
    kill(process, number)
    return left(folder)[0]


def bits(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.blake2b(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("images", "embedding", "number"),
    [
        (smooth_bytes(200), build_embedding("rgb"), signal.SIGKILL),  # stored with shared coordinates left out
        (random_bytes(200, 3, 6, 6), build_embedding("rgb"), signal.SIGTERM),
        (random_bytes(200, 3, 6, 6), FlatEmbedding(1.7), signal.SIGKILL),
    ],
    ids=["smooth", "random", "float"],
)
def test_a_killed_build_is_continued_to_the_same_bits(tmp_path, images, embedding, number):
    half_built(tmp_path / "m", images, embedding, number)
    reals = Reals(images)
    manifold = Manifold.build(tmp_path / "m", reals, embedding)
    assert len(reals.read) <= 200 - 48
    assert reals.read[0] % 16 == 0
    assert reals.read == list(range(reals.read[0], 200))
    assert left(tmp_path / "m") == []
    whole = Manifold.build(tmp_path / "whole", Reals(images), embedding)
    assert manifold.hash == whole.hash
    assert bits(tmp_path / "m") == bits(tmp_path / "whole")
    Manifold.open(tmp_path / "m", embedding, verify=True)


def test_a_build_that_somebody_stops_is_continued_too(tmp_path):
    images = random_bytes(100, 3, 4, 4)
    with pytest.raises(KeyboardInterrupt):
        Manifold.build(tmp_path / "m", Reals(images, stop_at=70), build_embedding("rgb"))
    assert len(left(tmp_path / "m")) == 1
    reals = Reals(images)
    Manifold.build(tmp_path / "m", reals, build_embedding("rgb"))
    assert reals.read == list(range(64, 100))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("stage", ["describe_references", "write_manifest"])
@pytest.mark.parametrize("images", [smooth_bytes(100), random_bytes(100, 3, 4, 4)], ids=["smooth", "random"])
def test_a_build_that_stopped_after_the_last_image_reads_none_again(tmp_path, monkeypatch, stage, images):
    from lightning_modules.artifacts import manifold as module

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, stage, stop)
        with pytest.raises(KeyboardInterrupt):
            Manifold.build(tmp_path / "m", Reals(images), build_embedding("rgb"))
    reals = Reals(images)
    built = Manifold.build(tmp_path / "m", reals, build_embedding("rgb"))
    if stage == "describe_references":
        assert reals.read == list(range(96, 100))  # the last batch was not a whole one
    assert built.hash == Manifold.build(tmp_path / "whole", Reals(images), build_embedding("rgb")).hash
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "whole"]


def test_what_was_left_of_other_images_is_removed_and_what_a_living_process_builds_stays(tmp_path):
    images = random_bytes(200, 3, 4, 4)
    abandoned = half_built(tmp_path / "m", images, build_embedding("rgb"))
    process = start(build_slowly, tmp_path / "m", images.flip(0), FlatEmbedding(), 0, 0.3)  # a minute, unless killed
    try:
        wait_until(lambda: len(left(tmp_path / "m")) == 1 and not abandoned.exists(), process)
        (living,) = left(tmp_path / "m")
        old = tmp_path / ".m.1-abc.building"  # of an earlier version, without a lock
        old.mkdir()
        Manifold.build(tmp_path / "m", Reals(images[:50]), build_embedding("rgb"))
        assert living.exists()
        assert old.exists()
        os.utime(old, (0, 0))
        Manifold.build(tmp_path / "m", Reals(images[:40]), build_embedding("rgb"), overwrite=True)
        assert not old.exists()
    finally:
        kill(process)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_worker_of_a_killed_build_lives_on(tmp_path):
    process = start(build_slowly, tmp_path / "m", random_bytes(400, 3, 4, 4), build_embedding("rgb"), 2)
    wait_until(lambda: [path for path in left(tmp_path / "m") if (path / "whole.bin").exists()], process)
    wait_until(lambda: (left(tmp_path / "m")[0] / "whole.bin").stat().st_size, process)
    workers = kill(process)
    assert len(workers) == 2
    wait_until(lambda: not any(map(alive, workers)), seconds=3)
