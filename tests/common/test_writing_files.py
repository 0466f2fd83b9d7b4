"""Files are whole or absent, whoever writes them, and places are looked at before the work."""

from __future__ import annotations

import errno
import os
import resource
import stat
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.gm_index.file_index import write_parquet as write_index
from datamodules.gm_index.splits import SplitRule, write_split_file
from lightning_modules.artifacts import Manifold, NeighbourCache, build_embedding
from lightning_modules.artifacts.manifold_files import create_tensor
from lightning_modules.cli.saving import AtomicCheckpoints
from lightning_modules.common.files import (
    PlaceError,
    atomic_file,
    check_file,
    check_folder,
    describe_place_error,
    remove_partials,
    write_bytes,
    write_text,
)
from lightning_modules.generators.checkpoints.own_file import write_generator
from lightning_modules.generators.checkpoints.stored import StoredGenerator
from lightning_modules.generators.image_writing import save_sheet, write_png
from lightning_modules.reporting.run_files import write_json, write_jsonl

NUMBERS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
ROWS = [{"file": f"{number}.png", "value": float(number)} for number in range(2000)]
FRAME = pd.DataFrame({"content": [f"{i:032x}" for i in range(2000)], "split": ["train"] * 2000})
TENSOR = torch.from_numpy(NUMBERS.copy()).permute(2, 0, 1)[None]
WRITERS = {
    "text": lambda path: write_text(path, "a" * 10_000),
    "bytes": lambda path: write_bytes(path, bytes(10_000)),
    "json": lambda path: write_json(path, ROWS),
    "rows.jsonl": lambda path: write_jsonl(path, ROWS),
    "index.parquet": lambda path: write_index(path, FRAME, {"a": "b"}),
    "split.json": lambda path: write_split_file(path, FRAME, SplitRule(0, 0.7, 0.1, 0.2, 0.5, None, None)),
    "split.parquet": lambda path: write_split_file(path, FRAME, SplitRule(0, 0.7, 0.1, 0.2, 0.5, None, None)),
    "image.png": lambda path: write_png(NUMBERS, path),
    "sheet.png": lambda path: save_sheet(TENSOR, path),
    "generator.safetensors": lambda path: write_generator(StoredGenerator("a", {}, {"a": TENSOR.float()}, {}), path),
    "last.ckpt": lambda path: AtomicCheckpoints().save_checkpoint({"state_dict": {"a": TENSOR}}, path),
}


@contextmanager
def full_disk(limit: int = 2048):
    """No file can grow beyond `limit` bytes: the system ends a write half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("earlier", [None, b"what was there"], ids=["new", "replaced"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_no_half_written_file_and_the_same_call_works_later(name, earlier, tmp_path):
    path = tmp_path / name
    if earlier is not None:
        path.write_bytes(earlier)
    with full_disk(), pytest.raises(OSError, match=r".") as caught:
        WRITERS[name](path)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ([] if earlier is None else [name])
    assert earlier is None or path.read_bytes() == earlier
    WRITERS[name](path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.stat().st_size > 2048


def reals(count=40):
    rng = np.random.default_rng(1)
    return [
        {"image": torch.from_numpy(rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)), "content_id": index}
        for index in range(count)
    ]


def test_a_full_disk_leaves_no_manifold(tmp_path):
    folder = tmp_path / "manifold"
    with full_disk(), pytest.raises(OSError, match=r".") as caught:
        Manifold.build(folder, reals(), build_embedding("rgb"))
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename.startswith(str(folder))
    assert list(tmp_path.iterdir()) == []
    assert len(Manifold.build(folder, reals(), build_embedding("rgb"))) == 40


def test_a_tensor_on_disk_has_its_blocks_before_it_is_filled(tmp_path):
    """A hole in the file would be filled by a write to memory, which a full disk answers by killing the process."""
    tensor = create_tensor(tmp_path, "points", (3, 100_000), torch.float32)
    status = (tmp_path / "points.bin").stat()
    assert status.st_blocks * 512 >= status.st_size == 1_200_000
    assert tensor.shape == (3, 100_000)
    assert not tensor.any()


def test_neighbours_that_cannot_be_kept_are_a_warning_and_no_file(tmp_path):
    manifold = Manifold.build(tmp_path / "manifold", reals(), build_embedding("rgb"))
    cache = NeighbourCache(manifold)
    ids = torch.arange(1000)
    cache.add(ids, torch.zeros(1000, 1, dtype=torch.float64), torch.zeros(1000, 1, dtype=torch.int64))
    with full_disk(), pytest.warns(UserWarning, match="neighbours are not kept .* File too large"):
        cache.flush()
    assert list(cache.folder.iterdir()) == []
    cache.flush()
    assert len(NeighbourCache(manifold)) == 1000


def test_files_have_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        for name, write in WRITERS.items():
            write(tmp_path / name)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o640}


def test_another_error_inside_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), atomic_file(tmp_path / "a"):
        (tmp_path / "nowhere").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in (".a.png.12-ab.partial", ".b.png.7.tmp", "c.png"):
        (tmp_path / name).write_bytes(b"half")
    remove_partials(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["c.png"]


def test_a_place_is_looked_at_without_leaving_anything(tmp_path):
    check_folder(tmp_path / "a" / "b", "--out")
    check_folder(tmp_path, "--out")
    check_file(tmp_path / "a" / "rows.jsonl", "--out")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_refused_with_the_option(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PlaceError, match=r"file cannot be written to \(it is no folder\).* to make a/b in.* --out"):
        check_folder(tmp_path / "file" / "a" / "b", "--out")
    with pytest.raises(PlaceError, match=r"found a folder at .*, expected a file to write; name one with --out"):
        check_file(tmp_path, "--out")
    with pytest.raises(PlaceError, match=r"/sys cannot be written to .*--runs_dir"):  # to nobody, root included
        check_folder(Path("/sys/runs"), "--runs_dir")
    with full_disk(100), pytest.raises(PlaceError, match="File too large"):
        check_folder(tmp_path, "--out")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_errors_of_a_place_are_told_in_one_line_with_what_to_do():
    told = describe_place_error(OSError(errno.ENOSPC, "some library's words", "/a/b.png"))
    assert told.startswith("/a/b.png: No space left on device; what is finished is whole; free some space")
    assert describe_place_error(OSError(errno.EROFS, "x")) == "Read-only file system; name another place"
    assert describe_place_error(OSError(errno.EIO, "x")) is None
    assert describe_place_error(ValueError("x")) is None
