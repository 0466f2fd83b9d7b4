"""The one path that the pixels of every image take from the file to the network: crop, resize, re-encode."""

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
    """

    center_crop: int | None = None
    resize: int | None = None
    reencode: Reencode = "none"
    max_pixels: int = MAX_PIXELS

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
        return f"crop{self.center_crop or 0}-resize{self.resize or 0}-{codec}"

    @property
    def keeps_pixels(self) -> bool:
        """Whether the pixels come out as they went in."""
        return self.center_crop is None and self.resize is None and self.reencode != "jpeg_95"

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
        return self._resized(height, width)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return height, width
        scale = self.resize / min(height, width)
        return max(self.resize, round(height * scale)), max(self.resize, round(width * scale))

    def __call__(self, pixels: Pixels) -> Pixels:
        """Crop, resize, re-encode uint8 pixels (H, W, 3), each side at least ``center_crop``, to (H', W', 3)."""
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
        return np.ascontiguousarray(pixels)
