"""An indexing that is killed leaves no process and no half file, and the next one goes on where it was."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from killing import alive, descendants, kill, start, wait_until
from PIL import Image

from datamodules.gm_index import file_index
from datamodules.gm_index.file_index import build_index
from datamodules.gm_index.sources import discover_folders
from datamodules.images import file_scan
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import Problems

COUNT = 3_000


def index_slowly(root: Path, workers: int) -> None:
    whole = file_scan.read_facts

    def slowly(*arguments):
        time.sleep(0.001)
        return whole(*arguments)

    file_scan.read_facts, file_index._SECONDS = slowly, 0.2
    build_index(discover_folders(root, Problems("set")), root, root / ".gm_index", PixelPath(), workers)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "set" / "gan-a"
    folder.mkdir(parents=True)
    for number in range(COUNT):
        pixels = np.full((4, 4, 3), number % 256, dtype=np.uint8)
        pixels[0, 0] = number // 256, number % 7, 0
        Image.fromarray(pixels).save(folder / f"{number:05d}.ppm")  # the quickest to write
    return tmp_path / "set"


def saved(root: Path) -> list[Path]:
    return list((root / ".gm_index").glob("files-*.parquet"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGKILL, 2), (signal.SIGTERM, 2), (signal.SIGKILL, 0)])
def test_a_killed_indexing_leaves_nobody_and_goes_on_where_it_was(root, monkeypatch, number, workers):
    process = start(index_slowly, root, workers)
    wait_until(lambda: len(saved(root)) >= 2, process)
    workers_left = kill(process, number)
    assert len(workers_left) == workers
    wait_until(lambda: not any(map(alive, workers_left)), seconds=3)

    half = root / ".gm_index" / ".files-crop0-resize0-as-is.found-1.parquet.1-aa.partial"
    half.write_bytes(b"half a file")
    kept = sum(len(file_index._read_facts(file)) for file in saved(root))
    assert kept >= 32
    decoded = []
    whole = file_scan.decode_image
    monkeypatch.setattr(file_scan, "decode_image", lambda *arguments: decoded.append(1) or whole(*arguments))
    index = build_index(discover_folders(root, Problems("set")), root, root / ".gm_index", PixelPath(), workers=0)
    assert len(decoded) == COUNT - kept
    assert index["content"].nunique() == COUNT
    assert [file.name for file in saved(root)] == ["files-crop0-resize0-as-is.parquet"]
    assert not half.exists()
    decoded.clear()
    build_index(discover_folders(root, Problems("set")), root, root / ".gm_index", PixelPath(), workers=0)
    assert not decoded


def test_an_indexing_killed_before_its_last_step_is_put_together_without_a_look_at_any_file(root, monkeypatch):
    entries = discover_folders(root, Problems("set")).iloc[:40].reset_index(drop=True)
    with monkeypatch.context() as patch:
        patch.setattr(file_index, "_SECONDS", 0.0)
        patch.setattr(file_index._Cache, "replace", lambda *_: None)
        build_index(entries, root, root / ".gm_index", PixelPath())
    assert len(saved(root)) == 2
    monkeypatch.setattr(file_scan, "read_facts", None)
    assert build_index(entries, root, root / ".gm_index", PixelPath())["content"].nunique() == 40
    assert [file.name for file in saved(root)] == ["files-crop0-resize0-as-is.parquet"]


def test_two_processes_take_turns_and_the_second_finds_the_work_done(root, monkeypatch):
    process = start(index_slowly, root, 2)
    wait_until(lambda: saved(root), process)
    decoded = []
    monkeypatch.setattr(file_scan, "decode_image", lambda *_: decoded.append(1))
    index = build_index(discover_folders(root, Problems("set")), root, root / ".gm_index", PixelPath(), workers=0)
    process.join(60)
    assert process.exitcode == 0
    assert not decoded
    assert index["content"].nunique() == COUNT


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_scanning_costs_a_worker_is_its_own_work_alone(root):
    """Memory that a worker shares with the process that has started it is not counted: nothing is copied."""
    process = start(index_slowly, root, 2)
    try:
        wait_until(lambda: len(saved(root)) >= 3, process)
        workers = descendants(process.pid)
        assert len(workers) == 2
        for worker in workers:
            rollup = Path(f"/proc/{worker}/smaps_rollup").read_text()
            own = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private"))
            assert own < 40_000, rollup  # kB
    finally:
        kill(process)
