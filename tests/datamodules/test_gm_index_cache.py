"""Each file is decoded once, however often the data set is opened."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from gm_folders import pixels, write_gm, write_source
from PIL import Image

from datamodules.gm import GMDataModule
from datamodules.gm_index import file_index as cache
from datamodules.gm_index.file_index import build_index
from datamodules.gm_index.sources import discover_folders
from datamodules.images import file_scan, image_io
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import GMDataError, Problems
from lightning_modules.common.content_ids import content_id


class Counter:
    def __init__(self, function):
        self.function, self.count = function, 0

    def __call__(self, *arguments):
        self.count += 1
        return self.function(*arguments)


@pytest.fixture
def decodes(monkeypatch):
    counter = Counter(file_scan.decode_image)
    monkeypatch.setattr(file_scan, "decode_image", counter)
    return counter


@pytest.fixture
def reads(monkeypatch):
    counter = Counter(file_scan.hash_bytes)
    monkeypatch.setattr(file_scan, "hash_bytes", counter)
    return counter


def index(root, **arguments):
    entries = discover_folders(root, Problems("set"))
    return build_index(entries, root, root / ".gm_index", PixelPath(), **arguments)


def test_second_opening_decodes_and_reads_nothing(tmp_path, decodes, reads):
    write_gm(tmp_path)
    first = index(tmp_path)
    assert decodes.count == 80
    before = reads.count
    second = index(tmp_path)
    assert (decodes.count, reads.count) == (80, before)
    pd.testing.assert_frame_equal(first, second)
    for row in first.itertuples():  # against the pixels as Pillow reads them
        expected = content_id(image_io.decode_image(tmp_path / row.path))
        assert row.content == row.final == expected
    assert set(first["size"]) == {"16x16"}


def test_only_new_and_changed_files_are_decoded(tmp_path, decodes):
    write_gm(tmp_path)
    before = index(tmp_path).set_index("path")
    write_source(tmp_path, "gan-a", 3, start=50)
    Image.fromarray(pixels("changed", 1)).save(tmp_path / "vae-b" / "00004.png")
    (tmp_path / "vae-b" / "00005.png").unlink()
    after = index(tmp_path).set_index("path")
    assert decodes.count == 80 + 4
    assert after.loc["vae-b/00004.png", "content"] != before.loc["vae-b/00004.png", "content"]
    assert "vae-b/00005.png" not in after.index
    same = before.index.intersection(after.index).difference(["vae-b/00004.png"])
    assert (after.loc[same, "content"] == before.loc[same, "content"]).all()


def test_touched_moved_and_copied_files_are_not_decoded_again(tmp_path, decodes):
    write_gm(tmp_path)
    index(tmp_path)
    os.utime(tmp_path / "gan-a" / "00000.png", ns=(1, 1))
    (tmp_path / "gan-a" / "00001.png").rename(tmp_path / "gan-a" / "renamed.webp")
    shutil.copy(tmp_path / "vae-b" / "00002.png", tmp_path / "vae-b" / "copied.png")
    after = index(tmp_path).set_index("path")
    assert decodes.count == 80
    assert after.loc["gan-a/renamed.webp", "content"] == content_id(pixels("gan-a", 1))
    assert after.loc["gan-a/renamed.webp", "extension"] == ".webp"
    assert after.loc["gan-a/renamed.webp", "format"] == "PNG"
    assert after.loc["vae-b/copied.png", "content"] == after.loc["vae-b/00002.png", "content"]


def test_same_size_same_pixels_count_is_noticed_by_time(tmp_path, decodes):
    file = write_source(write_gm(tmp_path), "gan-a", 1)[0]
    index(tmp_path)
    old, status = file.read_bytes(), file.stat()
    file.write_bytes(old[:-1] + bytes([old[-1]]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    index(tmp_path)
    assert decodes.count == 80  # read again, found to be the same bytes


def test_bad_files_are_looked_at_again(tmp_path):
    write_gm(tmp_path)
    bad = tmp_path / "gan-a" / "00000.png"
    whole, status = bad.read_bytes(), bad.stat()
    bad.write_bytes(b"\0" * len(whole))
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(GMDataError, match=r"00000\.png"):
        GMDataModule(root=str(tmp_path)).prepare_data()
    bad.write_bytes(whole)
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))
    GMDataModule(root=str(tmp_path)).prepare_data()


@pytest.mark.parametrize("damage", ["truncate", "other version"])
def test_damaged_or_old_cache_is_rebuilt(tmp_path, decodes, damage, monkeypatch):
    write_gm(tmp_path)
    first = index(tmp_path)
    cache_file = next((tmp_path / ".gm_index").glob("files-*.parquet"))
    if damage == "truncate":
        cache_file.write_bytes(cache_file.read_bytes()[:500])
    else:
        monkeypatch.setattr(cache, "INDEX_VERSION", cache.INDEX_VERSION + 1)
    pd.testing.assert_frame_equal(first, index(tmp_path))
    assert decodes.count == 160


def test_interrupted_indexing_goes_on_where_it_was_saved(tmp_path, decodes, monkeypatch):
    write_gm(tmp_path)
    monkeypatch.setattr(cache, "_SECONDS", 0.0)
    whole = cache.scan_files

    def interrupted(*arguments):
        yield next(whole(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "scan_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index(tmp_path)
    assert decodes.count == 32
    monkeypatch.setattr(cache, "scan_files", whole)
    assert len(index(tmp_path)) == 80
    assert decodes.count == 80
    assert [file.name for file in (tmp_path / ".gm_index").glob("*.parquet")] == ["files-crop0-resize0-as-is.parquet"]


def test_parallel_indexing_gives_the_same(tmp_path, monkeypatch):
    write_gm(tmp_path)
    alone = index(tmp_path, workers=0)
    shutil.rmtree(tmp_path / ".gm_index")
    monkeypatch.setattr(file_scan, "_PARALLEL_FROM", 10)
    pd.testing.assert_frame_equal(alone, index(tmp_path, workers=2))


def test_two_listings_share_one_cache(tmp_path, decodes):
    write_gm(tmp_path)
    some = discover_folders(tmp_path, Problems("set")).iloc[:30].reset_index(drop=True)
    index(tmp_path)
    build_index(some, tmp_path, tmp_path / ".gm_index", PixelPath())
    index(tmp_path)
    assert decodes.count == 80


def test_cache_dir_keeps_the_data_set_untouched(tmp_path, decodes):
    one, other = write_gm(tmp_path / "one"), write_gm(tmp_path / "other", sources=("flow-a", "gan-b"))
    for root in (one, other, one):
        datamodule = GMDataModule(root=str(root), cache_dir=str(tmp_path / "cache"))
        datamodule.setup()
    assert decodes.count == 160
    assert not (one / ".gm_index").exists()
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert datamodule.sources == ["gan-a", "real-x", "vae-b"]


def test_pixel_paths_have_their_own_final_ids(tmp_path):
    write_gm(tmp_path)
    entries = discover_folders(tmp_path, Problems("set"))
    path = PixelPath(center_crop=12, resize=8, reencode="jpeg_95")
    plain, changed = (build_index(entries, tmp_path, tmp_path / ".gm_index", p) for p in (PixelPath(), path))
    assert (plain["content"] == changed["content"]).all()
    for row in changed.head(5).itertuples():
        assert row.final == content_id(path(image_io.decode_image(tmp_path / row.path)))
    assert set(zip(changed["height"], changed["width"], strict=True)) == {(8, 8)}


def test_facts_are_those_of_the_picture_as_a_viewer_shows_it(tmp_path):
    """Size and content of a file that lies on its side and is turned by a tag are those of the upright one."""
    picture = pixels("x", 1, (24, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "upright.png")
    Image.fromarray(np.rot90(picture).copy()).save(tmp_path / "turned.png", exif=exif)
    upright, turned = (file_scan.read_facts(tmp_path / f"{name}.png", PixelPath()) for name in ("upright", "turned"))
    assert upright.size == turned.size == "16x24"
    assert upright.content == turned.content
    assert (turned.height, turned.width) == (24, 16)
