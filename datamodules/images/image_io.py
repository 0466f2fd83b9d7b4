"""Image files to 8-bit pixels and back, the one check that every reader makes, and the content id of a picture.

The content id names the *decoded pixels*: the same picture saved twice with other metadata has one id, so a duplicate
cannot slip from one split into another by being re-saved.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]

# EPS needs Ghostscript, a program that runs what is in the file; the others hold no picture that Pillow decodes.
_NOT_READ = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
_COMMON = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")  # tried first
_PICTURES_NOT_READ = frozenset(
    {".heic", ".heif", ".hif", ".jxl", ".svg", ".exr", ".hdr", ".eps", ".ps", ".wmf", ".emf"}  # Pillow reads none
    | {".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}  # a thumbnail at most
)
_MODES = ("1", "L", "P", "RGB", "RGBX", "RGBA", "LA", "PA", "YCbCr")
MAX_PIXELS = 120_000_000
"""Default limit of a picture, 360 MB as RGB: photographs of medium-format cameras (102 megapixels) pass."""
_LAYERED = ("MPO", "PSD")  # their further frames are previews and layers of the first, no animation
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ESCAPED = re.compile(r"\\\\|\\x([0-9a-f]{2})")


class ImageFileError(ValueError):
    """A file that cannot be used as 8-bit RGB pixels.

    Args:
        name: The file, as messages name it.
        kind: ``UNREADABLE``, ``UNSUPPORTED``, ``TRANSPARENT`` or ``TOO_LARGE``, members of ``problems.Kind``.
        reason: What was found.
    """

    def __init__(self, name: str, kind: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.kind, self.reason = kind, reason


def path_text(path: Path | str) -> str:
    r"""A path as text that can be printed and written to any file.

    File names are bytes. A byte that is no UTF-8 is written ``\xNN``, and in a name where that could be confused with a
    backslash that is there, that is doubled. All other names stay as they are. ``text_path`` is the inverse.
    """
    text = os.fspath(path)
    if "\\x" not in text and "\\\\" not in text:
        with suppress(UnicodeEncodeError):
            text.encode()
            return text
    return os.fsencode(text).replace(b"\\", b"\\\\").decode(errors="backslashreplace")


def text_path(text: str) -> Path:
    """The path that ``path_text`` wrote as this text."""
    if "\\" not in text or not _ESCAPED.search(text):
        return Path(text)

    def unescaped(found: re.Match[str]) -> str:
        return "\\" if found[1] is None else os.fsdecode(bytes([int(found[1], 16)]))

    return Path(_ESCAPED.sub(unescaped, text))


@cache
def _formats() -> tuple[str, ...]:
    """Formats that are recognised by their first bytes; the others, such as TGA, only by their suffix as well."""
    Image.init()
    known = [name for name, (_, accept) in Image.OPEN.items() if accept is not None and name not in _NOT_READ]
    return (*_COMMON, *(name for name in known if name not in _COMMON))


@cache
def _suffixes() -> dict[str, str]:
    Image.init()
    known = Image.registered_extensions().items()
    return {suffix: name for suffix, name in known if name in Image.OPEN and name not in _NOT_READ}


def has_image_suffix(name: str) -> bool:
    """Whether a file's name says that it is a picture, one that Pillow reads or of a camera or drawing program."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path for each of a million names costs more)
    return suffix in _suffixes() or suffix in _PICTURES_NOT_READ


def is_image_file(path: str) -> bool:
    """Whether a file is an image by its name, or by its first bytes whatever its name."""
    if has_image_suffix(path):
        return True
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (as in has_image_suffix)
            prefix = file.read(16)
    except OSError:
        return False
    begins = {name for name in _formats() if _accepts(name, prefix)}
    if begins & {*_COMMON} - {"BMP"}:
        return True
    if not begins:
        return False
    try:  # two bytes, as BMP's, are weak evidence: then the whole header must be one
        with _reading(Path(path)):
            return True
    except ImageFileError as error:
        return error.kind != "UNREADABLE"


def _accepts(name: str, prefix: bytes) -> bool:
    accept = Image.OPEN[name][1]
    try:
        return accept is not None and accept(prefix) is True
    except (IndexError, struct.error):  # a file of a few bytes
        return False


def _open(source: Path | str | bytes | BinaryIO, formats: list[str], max_pixels: int) -> Image.Image:
    """What ``Image.open`` gives, whose warning and limit would come before ours."""
    if (Image.MAX_IMAGE_PIXELS or max_pixels) < max_pixels:
        Image.MAX_IMAGE_PIXELS = max_pixels  # some formats are compared with it while they are decoded
    file = BytesIO(source) if isinstance(source, bytes) else source
    own = isinstance(file, Path | str)
    opened = Path(file).open("rb") if isinstance(file, Path | str) else file  # noqa: SIM115 (the image closes it)
    name = os.fspath(file) if isinstance(file, Path | str) else ""
    try:
        opened.seek(0)
        prefix = opened.read(16)
        for form in formats:
            make, accept = Image.OPEN[form]
            try:
                if accept is not None and accept(prefix) is not True:
                    continue
                opened.seek(0)
                image = make(opened, name)
            except (SyntaxError, IndexError, TypeError, struct.error):  # another format, as Image.open takes it
                continue
            image._exclusive_fp = own
            return image
        raise UnidentifiedImageError
    except BaseException:
        if own:
            opened.close()
        raise


@contextmanager
def _reading(source: Path | str | bytes | BinaryIO, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """An image, opened and found fit by its header; whatever goes wrong with it inside is an ``ImageFileError``."""
    given = source if isinstance(source, Path | str) else getattr(source, "name", "")
    suffix = Path(given).suffix.lower()
    name = path_text(given) if given else "bytes in memory"
    try:
        if suffix in _PICTURES_NOT_READ:
            raise ImageFileError(name, "UNSUPPORTED", f"a {suffix} file, which Pillow does not read")
        formats = [*_formats(), *({_suffixes()[suffix]} - {*_formats()} if suffix in _suffixes() else ())]
        with _open(source, formats, max_pixels) as image:
            if image.width * image.height > max_pixels:  # before anything else: counting frames may decode them
                found = f"{image.width:,} x {image.height:,} = {image.width * image.height:,} pixels"
                raise ImageFileError(name, "TOO_LARGE", f"{found}, the limit is {max_pixels:,}")
            if unfit := _unfit(image):
                raise ImageFileError(name, "UNSUPPORTED", unfit)
            yield image
    except (ImageFileError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\((\d+) pixels\)", str(error))  # of a frame, a tile or a picture within the file
        found = f"{int(pixels[1]):,} pixels" if pixels else str(error)
        raise ImageFileError(name, "TOO_LARGE", f"{found}, the limit is {max_pixels:,}") from error
    except UnidentifiedImageError as error:
        raise ImageFileError(name, "UNREADABLE", "cannot identify image format") from error
    except Exception as error:  # decoders raise errors of all kinds on damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageFileError(name, "UNREADABLE", reason) from error


def _unfit(image: Image.Image) -> str:
    """Why 8-bit RGB would distort the picture, by the file's header; "" if it would not."""
    if image.mode.startswith(("I", "F")) or _is_deep(image):
        return f"more than 8 bits per channel (mode {image.mode})"
    if image.mode == "CMYK":
        return "CMYK, printing inks whose RGB depends on a profile"
    if image.mode not in _MODES:
        return f"colours of mode {image.mode}"
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _LAYERED:
        return f"{frames} pages" if image.format in ("TIFF", "DCX") else f"an animation of {frames} frames"
    return ""


def _is_deep(image: Image.Image) -> bool:
    """Whether a file has 16 bits per channel that Pillow would cut to 8 as it decodes."""
    for tile in getattr(image, "tile", []):
        if ";16" in str(tile.args) or tile.codec_name == "SGI16":
            return True
        if tile.codec_name in ("ppm", "ppm_plain") and isinstance(tile.args, tuple) and tile.args[-1] > 255:
            return True
    return False


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged EXIF block; viewers show such a picture as it is stored
        return 1


def _has_alpha(image: Image.Image) -> bool:
    return "A" in image.mode or "transparency" in image.info


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """The loaded picture as a viewer shows it: turned as its orientation tag says, opaque, RGB."""
    turn = _TURNS.get(_orientation(image))
    if _has_alpha(image):
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        share = float((np.asarray(alpha) < 255).mean())
        if share > 0:
            raise ImageFileError(name, "TRANSPARENT", f"transparent, {max(share, 0.0001):.2%} of its pixels")
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def decode_image(source: Path | str | bytes | BinaryIO, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode an image file completely into 8-bit RGB, as a viewer shows it.

    Every reader of images goes through here. Grey images are replicated to three channels, palettes are expanded, the
    orientation tag (EXIF, XMP) is applied, and an alpha channel is dropped where it is opaque everywhere.

    Args:
        source: Path of a file of any format that Pillow reads; or its bytes, or an open file, whose ``name`` then
            tells formats that have no signature (TGA).
        max_pixels: Most pixels that a picture may have; more are refused by the header, before they take memory.

    Returns:
        uint8 array of shape (H, W, 3).

    Raises:
        ImageFileError: The file is missing, truncated or no image (``UNREADABLE``); has more than 8 bits per channel,
            several frames or pages, CMYK or other colours that RGB would distort (``UNSUPPORTED``); pixels that are not
            opaque (``TRANSPARENT``: what lies under them is nothing that anybody sees); or more pixels than
            ``max_pixels`` (``TOO_LARGE``).
    """
    with _reading(source, max_pixels) as image:
        image.load()
        given = source if isinstance(source, Path | str) else getattr(source, "name", "bytes in memory")
        return np.asarray(_to_rgb(image, path_text(given)), dtype=np.uint8).copy()


def check_image(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(H, W) that ``decode_image`` will give, in pixels, from the header; pixels are decoded only to look for holes.

    Raises:
        ImageFileError: As ``decode_image``, but for pixels that are damaged or cut off.
    """
    with _reading(path, max_pixels) as image:
        if _has_alpha(image):
            image.load()
            shown = _to_rgb(image, path_text(path))
            return shown.height, shown.width
        # PNG's own getexif decodes the pixels; TIFF's size is turned already
        exif = Image.Image.getexif(image) if image.format != "TIFF" else {}
        try:
            lies = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        except Exception:
            lies = False
        return (image.width, image.height) if lies else (image.height, image.width)


def chw(pixels: Pixels) -> torch.Tensor:
    """8-bit pixels (H, W, 3) to a uint8 tensor (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """8-bit pixels (H, W, 3) to a float32 image (3, H, W) in [0, 1]."""
    return chw(pixels).to(torch.float32).div_(255)
