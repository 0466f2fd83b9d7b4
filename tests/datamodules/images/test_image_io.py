"""The one check and the one decoding that every reader of images makes."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from gm_folders import pixels
from PIL import Image, ImageOps

from datamodules.images.image_io import ImageFileError, check_image, decode_image, is_image_file, path_text, text_path
from lightning_modules.common.content_ids import content_id

PICTURE = pixels("x", 1, (16, 24))
LOSSLESS = {"PNG": "png", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp", "TGA": "tga", "PPM": "ppm", "QOI": "qoi"}


def saved(path, image, **options):
    image.save(path, **options)
    return path


def with_alpha(alpha) -> Image.Image:
    return Image.fromarray(np.dstack([PICTURE, alpha]).astype(np.uint8), "RGBA")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_16_bits(path):
    """RGB of 16 bits, which Pillow opens as RGB of 8."""
    lines = b"".join(b"\0" + (line.astype(">u2") * 257).tobytes() for line in PICTURE)
    header = struct.pack(">IIBBBBB", 24, 16, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize("form", LOSSLESS)
def test_lossless_files_give_the_pixels_that_were_saved(tmp_path, form):
    options = {"lossless": True} if form == "WEBP" else {}
    file = saved(tmp_path / f"a.{LOSSLESS[form]}", Image.fromarray(PICTURE), format=form, **options)
    assert np.array_equal(decode_image(file), PICTURE)
    assert check_image(file) == (16, 24)
    with file.open("rb") as opened:
        assert np.array_equal(decode_image(opened), PICTURE)


@pytest.mark.parametrize("form", ["JPEG", "GIF", "AVIF", "JPEG2000", "PCX", "ICO", "SGI", "DDS"])
def test_other_formats_are_what_pillow_decodes(tmp_path, form):
    file = saved(tmp_path / "a", Image.fromarray(PICTURE), format=form)
    with Image.open(file) as image:
        assert np.array_equal(decode_image(file), np.asarray(image.convert("RGB")))
    assert is_image_file(str(file))


def test_eps_which_would_start_another_program_is_not_read(tmp_path):
    file = saved(tmp_path / "a.eps", Image.fromarray(PICTURE))
    with pytest.raises(ImageFileError, match=r"a\.eps: a \.eps file, which Pillow does not read"):
        decode_image(file)
    with pytest.raises(ImageFileError, match="cannot identify image format"):
        decode_image(file.read_bytes())


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_viewers_do(tmp_path, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = saved(tmp_path / "a", Image.fromarray(PICTURE), format=form, exif=exif)
    with Image.open(file) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = decode_image(file)
    assert np.array_equal(found, shown)
    assert shown.shape[:2] == ((24, 16) if orientation >= 5 else (16, 24))
    assert check_image(file) == found.shape[:2]


def test_a_damaged_exif_block_turns_nothing(tmp_path):
    file = saved(tmp_path / "a.jpg", Image.fromarray(PICTURE), exif=b"Exif\0\0no tiff header")
    assert decode_image(file).shape == (16, 24, 3)


def test_opaque_alpha_goes_through(tmp_path):
    full = np.full((16, 24), 255)
    file = saved(tmp_path / "rgba.png", with_alpha(full))
    assert np.array_equal(decode_image(file), PICTURE)
    grey = Image.fromarray(PICTURE).convert("L")
    assert np.array_equal(decode_image(saved(tmp_path / "la.png", grey.convert("LA")))[..., 0], np.asarray(grey))
    palette = Image.fromarray(PICTURE).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    file = saved(tmp_path / "p.png", palette, transparency=200)  # an entry that no pixel has
    assert np.array_equal(decode_image(file), np.asarray(palette.convert("RGB")))


def test_what_is_not_opaque_is_refused_whatever_stores_it(tmp_path):
    almost = np.full((16, 24), 255)
    almost[0, 0] = 254
    grey = Image.fromarray(PICTURE).convert("L")
    palette = Image.fromarray(PICTURE).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    corner = (0, 0)
    files = [
        saved(tmp_path / "hidden.png", with_alpha(np.zeros((16, 24)))),
        saved(tmp_path / "almost.png", with_alpha(almost)),
        saved(tmp_path / "almost.webp", with_alpha(almost), lossless=True),
        saved(tmp_path / "almost.tif", with_alpha(almost)),
        saved(tmp_path / "palette.png", palette, transparency=palette.getpixel(corner)),
        saved(tmp_path / "palette.gif", palette, transparency=palette.getpixel(corner)),
        saved(tmp_path / "grey.png", grey, transparency=grey.getpixel(corner)),
        saved(tmp_path / "colour.png", Image.fromarray(PICTURE), transparency=tuple(map(int, PICTURE[0, 0]))),
    ]
    for file in files:
        for read in (decode_image, check_image):
            with pytest.raises(ImageFileError, match=rf"{file.name}: transparent, \d+\.\d\d% of its pixels") as caught:
                read(file)
            assert caught.value.kind == "TRANSPARENT"


def test_what_8_bit_rgb_would_distort_is_refused_by_name(tmp_path):
    image, deep = Image.fromarray(PICTURE), (PICTURE.astype(np.uint16) * 257).byteswap()
    png_of_16_bits(tmp_path / "rgb16.png")
    (tmp_path / "rgb16.ppm").write_bytes(b"P6 24 16 65535\n" + deep.tobytes())
    saved(tmp_path / "grey16.png", Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257))
    saved(tmp_path / "float.tif", Image.fromarray(PICTURE[..., 0].astype(np.float32)))
    saved(tmp_path / "inks.jpg", image.convert("CMYK"))
    saved(tmp_path / "lab.tif", image.convert("LAB"))
    more = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    for name in ("moving.gif", "moving.png", "moving.webp"):
        saved(tmp_path / name, image, **more)
    saved(tmp_path / "pages.tif", image, **more)
    (tmp_path / "camera.nef").write_bytes(saved(tmp_path / "thumbnail.tif", image).read_bytes())
    for names, reason in (
        (("rgb16.png", "rgb16.ppm", "grey16.png", "float.tif"), "more than 8 bits per channel"),
        (("inks.jpg",), "CMYK"),
        (("lab.tif",), "colours of mode LAB"),
        (("moving.gif", "moving.png", "moving.webp"), "an animation of 2 frames"),
        (("pages.tif",), "2 pages"),
        (("camera.nef",), r"a \.nef file"),
    ):
        for name in names:
            for read in (decode_image, check_image):
                with pytest.raises(ImageFileError, match=f"{name}: {reason}") as caught:
                    read(tmp_path / name)
                assert caught.value.kind == "UNSUPPORTED"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "PSD"])
def test_damage_anywhere_is_one_kind_of_error(tmp_path, form):
    """Whatever a decoder raises for cut-off files and flipped bytes, a reader gets pixels or an `ImageFileError`."""
    if form == "PSD":
        data = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 16, 24, 8, 3) + bytes(12) + b"\0\1" + bytes(100)
    else:
        buffer = BytesIO()
        Image.fromarray(PICTURE).save(buffer, format=form)
        data = buffer.getvalue()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        spoilt = bytearray(data[: rng.integers(len(data) // 2, len(data))])
        for place in rng.integers(4, len(spoilt), 3):
            spoilt[place] = rng.integers(256)
        try:
            decode_image(bytes(spoilt))
        except ImageFileError:
            refused += 1
    assert refused


def test_files_are_images_by_suffix_or_content(tmp_path):
    data = saved(tmp_path / "a.jpg", Image.fromarray(PICTURE)).read_bytes()
    bitmap = saved(tmp_path / "a.bmp", Image.fromarray(PICTURE)).read_bytes()
    for name, content, found in (
        ("no_suffix", data, True),
        ("photo.txt", data, True),
        ("photo.dat", bitmap, True),
        ("cut_off", data[:20], True),
        ("empty.png", b"", True),
        ("IMG_1.HEIC", b"", True),
        ("notes.txt", b"no image", False),
        ("BMW.txt", b"BMW and other makes of cars, a long list", False),
        ("x", b"", False),
        ("y", b"\n", False),
    ):
        (tmp_path / name).write_bytes(content)
        assert is_image_file(str(tmp_path / name)) == found, name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"a.png", "a.png"),
        ("naïve 写真.png".encode(), "naïve 写真.png"),
        (b"caf\xe9.png", r"caf\xe9.png"),
        (rb"a\b.png", r"a\b.png"),
        (rb"a\xe9.png", r"a\\xe9.png"),
        (b"\\\\ and \xff", r"\\\\ and \xff"),
    ],
)
def test_names_have_one_text_that_any_file_can_hold(name, text):
    path = os.fsdecode(name)
    assert path_text(path) == text
    text.encode()
    assert os.fsencode(text_path(text)) == name


def test_content_ids_do_not_depend_on_how_a_picture_is_stored(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    lying = saved(tmp_path / "a.png", Image.fromarray(np.rot90(PICTURE).copy()), exif=turned)
    assert content_id(decode_image(lying)) == content_id(PICTURE)
