"""Real images in a plain folder: CelebA-HQ, FFHQ, AFHQ, or anyone's own photographs."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.images.image_io import MAX_PIXELS, ImageFileError, Pixels, check_image, decode_image, path_text
from datamodules.images.image_search import LeftOut, find_images, left_out_line, left_out_text
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import REALS, Kind, Problems, Reader, counted
from datamodules.real.registry import RealSet

log = logging.getLogger(__name__)
_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}  # AFHQ's first version calls its test images val


@dataclass(frozen=True)
class FilePictures:
    """Pictures in files, decoded on access; ``unreadable`` are folders among them that cannot be opened."""

    files: tuple[Path, ...]
    unreadable: tuple[LeftOut, ...] = ()
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pixels:
        return decode_image(self.files[index], self.max_pixels)

    def limited(self, max_pixels: int) -> FilePictures:
        """The same pictures, of which none may have more pixels."""
        return replace(self, max_pixels=max_pixels)

    def check(self, pixel_path: PixelPath | None, reader: Reader = REALS) -> None:
        """Check every file by its header (``check_image``): all must be fit, and of one size after the pixel path.

        Without a pixel path, pictures of several sizes will do.

        Raises:
            GMDataError: Every file that is unfit or too small for the crop, and all sizes if there are several.
        """
        where = path_text(self.files[0].parent) if self.files else "no folder"
        problems = Problems(f"images in {where}", reader)
        for folder in self.unreadable:
            problems.add(Kind.UNREADABLE, f"{folder.path}: {folder.reason}")
        sizes: dict[tuple[int, int], list[Path]] = {}
        for file in self.files:
            try:
                height, width = check_image(file, self.max_pixels)
            except ImageFileError as error:
                problems.add(Kind[error.kind], str(error))
                continue
            if pixel_path is None:
                continue
            if pixel_path.center_crop and min(width, height) < pixel_path.center_crop:
                found = f"{path_text(file)}: {width}x{height}, the crop is {pixel_path.center_crop}"
                problems.add(Kind.CROP_TOO_LARGE, found)
            else:
                sizes.setdefault(pixel_path.size_after(height, width), []).append(file)
        if len(sizes) > 1:
            for (height, width), files in sorted(sizes.items()):
                found = f"{width}x{height} (width x height): {counted(len(files))}; first: {path_text(files[0])}"
                problems.add(Kind.MIXED_SIZES, found)
        problems.raise_if_any()


@cache
def _tell(line: str) -> None:
    """Log a line, once however often the folder is read."""
    log.warning(line)


def load_image_folder(
    root: Path | None,
    split: str,
    download: bool = False,
    name: str | None = None,
    licence: str = "not stated",
    with_classes: bool = True,
) -> RealSet:
    """Every image below a folder, which cannot be downloaded.

    ``root/train`` and ``root/test`` (or ``root/val``) are the splits where they exist; without them the whole folder is
    ``train``, and there is no ``test``. Where all images lie one folder deep, these folders are the classes, unless
    they are only shares of the files as in CelebA-HQ and FFHQ. The name is by default the folder's.

    Raises:
        FileNotFoundError: There is no such folder, no image in it, or no such split.
    """
    label = name or "an image folder"
    if root is None or not root.is_dir():
        given = root and path_text(root)
        raise FileNotFoundError(f"{label}: root is {given}; expected a folder of images (it cannot be downloaded)")
    folder = next((root / part for part in _SPLIT_FOLDERS[split] if (root / part).is_dir()), None)
    if folder is None and split == "test":
        where = path_text(root)
        raise FileNotFoundError(f"{where}: no folder test/ or val/; without them all images are the split 'train'")
    folder = folder or root
    found = find_images(folder)
    files = tuple(found.files)
    if not files and not found.unreadable:
        others = f" (left out: {left_out_text(found.left_out)})" if found.left_out else ""
        where = path_text(folder)
        raise FileNotFoundError(f"{where}: no image in it or below{others}; expected files that Pillow reads")
    if found.left_out:
        _tell(f"{path_text(folder)}: {left_out_line(len(files), found.left_out)}")
    parents = [file.relative_to(folder).parts[:-1] for file in files]
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if with_classes and all(len(parts) == 1 for parts in parents):
        classes = tuple(sorted({parts[0] for parts in parents}))
        positions = {class_name: position for position, class_name in enumerate(classes)}
        labels = np.array([positions[parts[0]] for parts in parents], dtype=np.int64)
    plain = re.sub(r"[^A-Za-z0-9._+-]", "_", root.resolve().name) or "folder"
    return RealSet(name or plain, split, FilePictures(files, tuple(found.unreadable)), labels, classes, licence)


_RESEARCH = "non-commercial research only, see the set's agreement"
load_celeba_hq = partial(load_image_folder, name="celeba_hq", licence=_RESEARCH, with_classes=False)
load_ffhq = partial(load_image_folder, name="ffhq", licence="CC-BY-NC-SA-4.0", with_classes=False)
load_afhq = partial(load_image_folder, name="afhq", licence="CC-BY-NC-4.0")
