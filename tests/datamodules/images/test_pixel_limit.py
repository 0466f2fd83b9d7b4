"""A picture that would take more memory than it may is refused by its header, whatever the format and the reader."""

from __future__ import annotations

import inspect
import struct
import tracemalloc
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import datamodules
from datamodules.gm_index.file_index import build_index
from datamodules.gm_index.sources import discover_folders
from datamodules.images.file_scan import read_facts
from datamodules.images.image_io import MAX_PIXELS, ImageFileError, check_image, decode_image, is_image_file
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import GMDataError, Problems
from datamodules.real import load_real_set
from lightning_modules.cli import image_commands
from lightning_modules.cli.generate.command import write_data_set

PICTURE = np.arange(24 * 16 * 3, dtype=np.uint8).reshape(16, 24, 3)
SIDE = 13_000


def stored(form: str, mode: str = "RGB", **options) -> bytes:
    buffer = BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(buffer, format=form, **options)
    return buffer.getvalue()


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def patched(data: bytes, position: int, form: str, *values: int) -> bytes:
    fields = struct.pack(form, *values)
    return data[:position] + fields + data[position + len(fields) :]


def tiff(side: int) -> bytes:
    data = stored("TIFF")
    start = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, start)[0]):
        position = start + 2 + 12 * entry
        if struct.unpack_from("<H", data, position)[0] in (256, 257):  # ImageWidth, ImageLength
            data = patched(data, position + 2, "<HII", 4, 1, side)
    return data


def lying(form: str, side: int = SIDE) -> bytes:
    """A small file whose header claims `side` x `side` pixels."""
    if form == "png":
        return png(side, side)
    if form == "gif":  # the screen, and the frame on it
        data = patched(stored("GIF", "P"), 6, "<HH", side, side)
        return patched(data, data.index(b"\x2c", 13 + 3 * 2 ** (1 + (data[10] & 7))) + 5, "<HH", side, side)
    if form == "bmp":
        return patched(stored("BMP"), 18, "<ii", side, side)
    if form == "webp":  # lossless: two fields of 14 bits behind the signature
        data = stored("WEBP", lossless=True)
        position = data.index(b"VP8L") + 9
        rest = struct.unpack_from("<I", data, position)[0] >> 28 << 28
        return patched(data, position, "<I", rest | (side - 1) | (side - 1) << 14)
    if form == "jpg":
        data = stored("JPEG")
        return patched(data, data.index(b"\xff\xc0") + 5, ">HH", side, side)
    if form == "jp2":
        data = stored("JPEG2000")
        data = patched(data, data.index(b"ihdr") + 4, ">II", side, side)
        return patched(data, data.index(b"\xff\x51") + 6, ">II", side, side)
    if form == "ppm":
        return b"P6 %d %d 255\n" % (side, side) + bytes(64)
    if form == "tga":
        return patched(stored("TGA"), 12, "<HH", side, side)
    return tiff(side)


FORMS = ["png", "gif", "bmp", "webp", "jpg", "jp2", "ppm", "tga", "tif"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("read", [decode_image, check_image])
def test_a_lying_header_is_refused_before_memory_is_taken(tmp_path, form, read):
    file = tmp_path / f"large.{form}"
    file.write_bytes(lying(form))
    assert file.stat().st_size < 10_000
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's warning about decompression bombs comes at 90 million pixels
        found = r"13,000 x 13,000 = 169,000,000 pixels, the limit is 120,000,000"
        with pytest.raises(ImageFileError, match=rf"large\.{form}: {found}") as caught:
            read(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.kind == "TOO_LARGE"
    assert peak < 2e6
    assert is_image_file(str(file))


@pytest.mark.parametrize("form", ["png", "gif", "bmp", "jpg", "tif"])
def test_even_far_beyond_pillows_own_limit_ours_speaks(tmp_path, form):
    file = tmp_path / f"huge.{form}"
    file.write_bytes(lying(form, 65_000 if form in ("gif", "jpg") else 200_000))
    with pytest.raises(ImageFileError, match="the limit is 120,000,000") as caught:
        decode_image(file)
    assert caught.value.kind == "TOO_LARGE"


def test_the_limit_is_a_setting_to_the_pixel_and_pillow_says_nothing_below_it(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as if the picture were beyond twice Pillow's own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode_image(file, 384), PICTURE)
        assert PixelPath(max_pixels=384).read(file).shape == (16, 24, 3)
        with pytest.raises(ImageFileError, match="24 x 16 = 384 pixels, the limit is 383"):
            decode_image(file, 383)
    with pytest.raises(ValueError, match="max_image_pixels is 0; expected"):
        PixelPath(max_pixels=0)


def test_photographs_of_large_cameras_pass():
    assert 11_648 * 8_736 < MAX_PIXELS < SIDE**2  # medium format


def write_reals(folder: Path) -> Path:
    folder.mkdir(parents=True)
    Image.fromarray(PICTURE).save(folder / "0.png")
    (folder / "1.png").write_bytes(lying("png"))
    return folder


MESSAGE = (
    r"(?s)image beyond the pixel limit \(1\).*no more pixels than `{0}`.*or raise `{0}`.*1\.png: .*13,000 x 13,000"
)


def test_real_sets_and_folders_of_every_command_name_their_setting(tmp_path):
    reals = str(write_reals(tmp_path / "reals" / "test"))
    root = str(tmp_path / "reals")
    with pytest.raises(GMDataError, match=MESSAGE.format("max_image_pixels")):
        load_real_set("folder", root, "test")
    with pytest.raises(GMDataError, match=r"0\.png: 24 x 16 = 384 pixels, the limit is 100"):
        load_real_set("folder", root, "test", max_image_pixels=100)
    with pytest.raises(GMDataError, match=MESSAGE.format("reals_max_image_pixels")):
        write_data_set(str(tmp_path / "out"), ["gan-dcgan"], 1, reals="folder", reals_root=root)
    with pytest.raises(GMDataError, match=MESSAGE.format("--max_image_pixels")):
        image_commands.fid([reals, "--reals", reals])
    with pytest.raises(GMDataError, match=MESSAGE.format("max_image_pixels")):
        image_commands.codecs(["--images", reals])
    with pytest.raises(GMDataError, match=MESSAGE.format("max_image_pixels")):
        image_commands.sheets([str(tmp_path / "sheets"), reals])
    (tmp_path / "reals" / "test" / "1.png").unlink()
    image_commands.sheets([str(tmp_path / "sheets"), reals, "--max_image_pixels", "384"])
    with pytest.raises(GMDataError, match="the limit is 383"):
        image_commands.sheets([str(tmp_path / "sheets"), reals, "--max_image_pixels", "383"])


def test_predict_lists_such_a_file_as_any_other_that_cannot_be_used(tmp_path):
    write_reals(tmp_path / "images")
    data = datamodules.ImageFilesDataModule(str(tmp_path / "images"))
    with pytest.raises(GMDataError, match=MESSAGE.format("--max_image_pixels")):
        data.setup()
    data = datamodules.ImageFilesDataModule(str(tmp_path / "images"), skip_unreadable=True)
    data.setup()
    assert [Path(item["path"]).name for item in data.skipped] == ["1.png"]


def test_an_index_made_under_a_higher_limit_holds_no_picture_beyond_a_lower_one(tmp_path):
    write_reals(tmp_path / "gan-a")
    (tmp_path / "gan-a" / "1.png").unlink()
    entries = discover_folders(tmp_path, Problems("set"))

    def index(limit: int):
        return build_index(entries, tmp_path, tmp_path / ".gm_index", PixelPath(max_pixels=limit)).iloc[0]

    assert index(384)["problem"] == ""
    assert index(383)["problem"] == "TOO_LARGE"
    assert index(384)["problem"] == ""
    assert index(384)["content"] == read_facts(tmp_path / "gan-a" / "0.png", PixelPath()).content


def test_defaults_are_one_number():
    modules = (datamodules.GMDataModule, datamodules.ImageFilesDataModule, datamodules.RealImagesDataModule)
    defaults = [inspect.signature(module).parameters["max_image_pixels"].default for module in modules]
    for callable_ in (datamodules.SampleNumbersDataModule, write_data_set):
        defaults.append(inspect.signature(callable_).parameters["reals_max_image_pixels"].default)
    assert set(defaults) == {MAX_PIXELS}
    source = inspect.getsource(image_commands._add_pixel_limit)
    assert f"default={MAX_PIXELS:_}" in source
