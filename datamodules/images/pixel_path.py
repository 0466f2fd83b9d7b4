"""The one path that the pixels of every image take from the file to the network: crop, resize, re-encode, fit."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from datamodules.images.image_io import MAX_PIXELS, Pixels, decode_image

Reencode = Literal["none", "png", "jpeg_95"]


@dataclass(frozen=True)
class PixelPath:
    """Decoded pixels of a file to the pixels that are scored; the same for all sources.

    Attributes:
        center_crop: Side of the central square, in pixels; None keeps the picture.
        resize: Length of the shorter side after resizing (Pillow, bilinear, antialiased; after the crop), in pixels;
            None keeps the size.
        reencode: ``none``; ``png``, lossless, so the pixels stay; or ``jpeg_95``, JPEG of Pillow's quality 95 with
            4:2:0 chroma.
        max_pixels: Most pixels that a file's picture may have; it changes no pixel.
        fitted: (H, W) that pictures of another size are brought to at the end, as `fit` does it; None leaves them.
    """

    center_crop: int | None = None
    resize: int | None = None
    reencode: Reencode = "none"
    max_pixels: int = MAX_PIXELS
    fitted: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ValueError(f"max_image_pixels is {self.max_pixels}; expected a number of pixels of at least 1")
        for name in ("center_crop", "resize"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected a side in pixels of at least 1, or null")
        if self.reencode not in get_args(Reencode):
            raise ValueError(f"reencode is {self.reencode!r}; expected one of {', '.join(get_args(Reencode))}")

    @property
    def key(self) -> str:
        """Names what happens to the pixels: equal keys give equal pixels (``png`` is lossless, hence like ``none``)."""
        codec = "jpeg95" if self.reencode == "jpeg_95" else "as-is"
        end = "" if self.fitted is None else f"-fit{self.fitted[0]}x{self.fitted[1]}"
        return f"crop{self.center_crop or 0}-resize{self.resize or 0}-{codec}{end}"

    @property
    def keeps_pixels(self) -> bool:
        """Whether the pixels come out as they went in."""
        return self.center_crop is None and self.resize is None and self.reencode != "jpeg_95" and self.fitted is None

    def read(self, file: Path) -> Pixels:
        """Decode a file and put it through; errors are those of ``decode_image``."""
        return self(decode_image(file, self.max_pixels))

    def fits(self, pixels: Pixels) -> bool:
        """Whether the picture is large enough for the crop."""
        return self.center_crop is None or min(pixels.shape[:2]) >= self.center_crop

    def size_after(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) after the pixel path of a picture that fits the crop."""
        if self.center_crop is not None:
            height = width = self.center_crop
        return self.fitted or self._resized(height, width)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return height, width
        scale = self.resize / min(height, width)
        return max(self.resize, round(height * scale)), max(self.resize, round(width * scale))

    def __call__(self, pixels: Pixels) -> Pixels:
        """Crop, resize, re-encode, fit uint8 pixels (H, W, 3), each side at least ``center_crop``, to (H', W', 3)."""
        if self.keeps_pixels:
            return pixels
        if self.center_crop is not None:
            height, width = pixels.shape[:2]
            top, left = (height - self.center_crop) // 2, (width - self.center_crop) // 2
            pixels = pixels[top : top + self.center_crop, left : left + self.center_crop]
        height, width = self._resized(*pixels.shape[:2])
        if (height, width) != pixels.shape[:2]:
            image = Image.fromarray(np.ascontiguousarray(pixels))
            pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8).copy()
        if self.reencode == "jpeg_95":
            buffer = BytesIO()
            Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="JPEG", quality=95, subsampling="4:2:0")
            pixels = decode_image(buffer.getvalue())
        if self.fitted is not None:
            pixels = fit(pixels, self.fitted)
        return np.ascontiguousarray(pixels)


FLAT = 8
"""Grey levels within which a border is of one colour: JPEG leaves so much of it."""


def fit(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Bring uint8 pixels (H, W, 3) to a size (H', W'); those that have it are given back as they are.

    A picture longer than that shape loses the flat bands that make it so, where it has them (bars at the sides or
    above and below); then it is resized with Lanczos' filter, whatever shape is left.
    """
    if pixels.shape[:2] == size:
        return pixels
    pixels = _without_bars(pixels, size)
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize(size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.uint8).copy()


def _without_bars(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    height, width = pixels.shape[:2]
    upright = height * size[1] > width * size[0]
    along = pixels if upright else pixels.transpose(1, 0, 2)  # the longer side first
    kept = round(width * size[0] / size[1]) if upright else round(height * size[1] / size[0])
    excess = len(along) - kept
    if excess < 1:
        return pixels
    before, after, half = _flat(along), _flat(along[::-1]), excess // 2
    if min(before, after) >= half and max(before, after) >= excess - half:
        first = half if after >= excess - half else excess - half
    elif max(before, after) >= excess:  # one bar
        first = excess if before >= excess else 0
    else:
        return pixels
    cut = along[first : first + kept]
    return cut if upright else cut.transpose(1, 0, 2)


def _flat(rows: Pixels) -> int:
    """How many of the first rows have one colour, that of the first pixel."""
    far = np.abs(rows.astype(np.int16) - rows[:1, :1].astype(np.int16)).max(axis=(1, 2)) > FLAT
    return int(far.argmax()) if far.any() else len(rows)
