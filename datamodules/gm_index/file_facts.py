"""What one file says about itself: its encoding, its decoded pixels' content ids, or why it cannot be used."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image, JpegImagePlugin

from datamodules.gm_index.pixel_path import PixelPath
from datamodules.gm_index.problems import counted
from datamodules.image_io import UnreadableImageError, content_id, decode_image

_FORMATS = {"PNG", "JPEG", "MPO", "WEBP"}
_CHROMA = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_DEEP_MODES = ("I", "F")  # 16- and 32-bit grey: Pillow clips them to 8 bits instead of scaling


@dataclass
class FileFacts:
    """Everything the index keeps about a file; strings are empty where they do not apply.

    Attributes:
        file_hash: BLAKE2b-128 of the file's bytes, hex.
        problem: Name of a ``Kind`` of problem, or "".
        reason: What was found, for the problem.
        extension: Lower-case suffix.
        format: PNG, JPEG, WEBP lossy or WEBP lossless.
        jpeg_tables: Quality whose quantisation tables libjpeg would write, else a hash of the tables.
        jpeg_chroma: Chroma subsampling, and whether the JPEG is progressive.
        mode: Pillow's mode of the file: RGB, L, P, RGBA, ...
        size: ``<width>x<height>`` in the file.
        metadata: Names of the metadata present: text chunks, EXIF, ICC profile, resolution, ...
        content: Content id of the decoded pixels.
        final: Content id after the pixel path.
        height: Height after the pixel path, in pixels.
        width: Width after the pixel path, in pixels.
    """

    file_hash: str = ""
    problem: str = ""
    reason: str = ""
    extension: str = ""
    format: str = ""
    jpeg_tables: str = ""
    jpeg_chroma: str = ""
    mode: str = ""
    size: str = ""
    metadata: str = ""
    content: str = ""
    final: str = ""
    height: int = 0
    width: int = 0


def hash_bytes(data: bytes) -> str:
    """BLAKE2b-128 of a file's bytes, hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@cache
def _libjpeg_tables() -> dict[tuple[tuple[int, ...], ...], int]:
    tables = {}
    for quality in range(1, 101):
        for mode in ("RGB", "L"):
            buffer = BytesIO()
            Image.new(mode, (8, 8)).save(buffer, format="JPEG", quality=quality)
            image = JpegImagePlugin.JpegImageFile(BytesIO(buffer.getvalue()))
            tables[tuple(tuple(image.quantization[key]) for key in sorted(image.quantization))] = quality
    return tables


def _name_tables(tables: tuple[tuple[int, ...], ...]) -> str:
    quality = _libjpeg_tables().get(tables)
    return f"quality {quality}" if quality else f"custom {hash_bytes(repr(tables).encode())[:8]}"


def _webp_kind(data: bytes) -> str:
    position = 12  # RIFF header; then chunks of 4 bytes of name, 4 of length, payload padded to even
    while position + 8 <= len(data):
        name, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return "WEBP lossless" if name == b"VP8L" else "WEBP lossy"
        position += 8 + length + length % 2
    return "WEBP"


def _read_header(data: bytes, facts: FileFacts) -> None:
    with Image.open(BytesIO(data)) as image:
        facts.format, facts.mode, facts.size = image.format or "", image.mode, f"{image.width}x{image.height}"
        facts.metadata = " ".join(sorted(str(name) for name in image.info))
        if facts.format not in _FORMATS:
            facts.problem, facts.reason = "UNSUPPORTED", f"a {facts.format} file"
        elif image.mode.startswith(_DEEP_MODES):
            facts.problem, facts.reason = "UNSUPPORTED", f"more than 8 bits per channel (mode {image.mode})"
        elif facts.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            facts.problem, facts.reason = "UNSUPPORTED", f"an animation of {getattr(image, 'n_frames', 0)} frames"
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            facts.format = "JPEG"
            facts.jpeg_tables = _name_tables(
                tuple(tuple(image.quantization[key]) for key in sorted(image.quantization))
            )
            chroma = _CHROMA.get(JpegImagePlugin.get_sampling(image), "other" if image.mode != "L" else "grey")
            facts.jpeg_chroma = chroma + (" progressive" if image.info.get("progressive") else "")
    if facts.format == "WEBP":
        facts.format = _webp_kind(data)


def read_facts(path: Path, pixel_path: PixelPath, known: frozenset[str] | set[str] = frozenset()) -> FileFacts:
    """Read a file once, decode it completely and describe it.

    Args:
        path: The file.
        pixel_path: What happens to its pixels before they are scored.
        known: Hashes of files already described; for one of them only ``file_hash`` and ``extension`` are filled in,
            without decoding.

    Returns:
        The facts; a file that cannot be used has ``problem`` and ``reason`` set. Nothing is raised for a bad file.
    """
    facts = FileFacts(extension=path.suffix.lower())
    try:
        data = path.read_bytes()
    except OSError as error:
        facts.problem, facts.reason = "UNREADABLE", str(error.strerror or error)
        return facts
    facts.file_hash = hash_bytes(data)
    if facts.file_hash in known:
        return facts
    try:
        pixels = decode_image(data)
        _read_header(data, facts)
    except UnreadableImageError as error:
        why = re.sub(r" file <_io\.BytesIO.*", " format", str(error.__cause__ or error))  # it was read from memory
        facts.problem, facts.reason = "UNREADABLE", f"{counted(len(data), 'byte')}, {why}"
        return facts
    if facts.problem:
        return facts
    if not pixel_path.fits(pixels):
        facts.problem, facts.reason = (
            "CROP_TOO_LARGE",
            f"{facts.size} (width x height), center_crop is {pixel_path.center_crop}",
        )
        return facts
    facts.content = content_id(pixels)
    final = pixel_path(pixels)
    facts.final = facts.content if pixel_path.keeps_pixels else content_id(final)
    facts.height, facts.width = int(final.shape[0]), int(final.shape[1])
    return facts
