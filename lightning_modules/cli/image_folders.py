"""A folder of images as a tensor: searched, checked, decoded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.images.image_io import MAX_PIXELS, Pixels, path_text
from datamodules.images.image_search import LeftOut, find_images, left_out_line, left_out_text
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import Reader
from datamodules.real.image_folder import FilePictures


class ImageFolder:
    """The images of a folder, searched and checked; what is left out is said on standard error.

    Args:
        folder: The folder.
        pixel_path: What happens to the pixels; None for no demand on sizes.
        reader: Who reads them, for messages.
        most: How many images are wanted, the first ones by name; None for all.
        all_in: File that will list all that is left out.
        max_pixels: Most pixels that a picture may have, where no pixel path says so.

    Raises:
        FileNotFoundError: No such folder, or no image in it.
        GMDataError: Files that cannot be used, and images of several sizes.
    """

    def __init__(
        self,
        folder: Path,
        pixel_path: PixelPath | None,
        reader: Reader,
        most: int | None = None,
        all_in: Path | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.name, self.path = path_text(folder), pixel_path or PixelPath(max_pixels=max_pixels)
        found = find_images(folder) if folder.is_dir() else None
        if found is None or not (found.files or found.unreadable):
            others = f" (left out: {left_out_text(found.left_out)})" if found is not None and found.left_out else ""
            what = "no folder" if found is None else f"no images{others}"
            raise FileNotFoundError(f"{self.name}: found {what}; give a folder of images of one source")
        self.left_out: list[LeftOut] = found.left_out
        if self.left_out:
            line = left_out_line(len(found.files), self.left_out, all_in)
            sys.stderr.write(f"note: {self.name}: {line}\n")
        self.pictures = FilePictures(tuple(found.files[:most]), tuple(found.unreadable), self.path.max_pixels)
        self.pictures.check(pixel_path, reader)

    def __iter__(self) -> Iterator[Pixels]:
        """Each image, uint8 (H, W, 3)."""
        return (self.path(self.pictures[index]) for index in range(len(self.pictures)))

    def tensor(self) -> Tensor:
        """All images as uint8 (n, 3, H, W)."""
        return torch.from_numpy(np.stack(list(self))).permute(0, 3, 1, 2).contiguous()
