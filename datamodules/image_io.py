"""Image files to 8-bit pixels and back, and the content id of a picture.

The content id names the *decoded pixels*: the same picture saved twice with other metadata has one id, so a duplicate
cannot slip from one split into another by being re-saved.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class UnreadableImageError(ValueError):
    """A file that Pillow cannot decode completely."""


def decode_image(source: Path | str | bytes) -> Pixels:
    """Decode an image file completely into 8-bit RGB.

    Grey images are replicated to three channels, palettes are expanded, and an alpha channel is dropped.

    Args:
        source: Path of a PNG, JPEG or WebP file, or its bytes.

    Returns:
        uint8 array of shape (H, W, 3).

    Raises:
        UnreadableImageError: The file is missing, truncated or no image.
    """
    name = f"{len(source)} bytes in memory" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            return np.asarray(image.convert("RGB"), dtype=np.uint8).copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{name}: not a complete image file ({error})") from error


def content_id(pixels: Pixels) -> str:
    """BLAKE2b-128 hash, in hex, of decoded pixels and their shape.

    Args:
        pixels: uint8 array of shape (H, W, 3).
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.asarray(pixels.shape, dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def content_id_to_int(identifier: str) -> int:
    """First 63 bits of a content id: the form that travels in int64 tensors."""
    return int(identifier[:16], 16) >> 1


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """8-bit pixels (H, W, 3) to a float32 image (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).to(torch.float32).div_(255)


def save_png(path: Path, pixels: Pixels) -> None:
    """Write 8-bit RGB pixels (H, W, 3) as a PNG without metadata, atomically and with the same bytes each time."""
    buffer = BytesIO()
    Image.fromarray(pixels, mode="RGB").save(buffer, format="PNG", compress_level=6)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(buffer.getvalue())
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
