"""Real images in a plain folder: CelebA-HQ, FFHQ, AFHQ, or anyone's own photographs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.gm_index.pixel_path import PixelPath
from datamodules.gm_index.problems import Kind, Problems
from datamodules.image_io import IMAGE_SUFFIXES, Pixels, decode_image
from datamodules.real.base import RealSet

_SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}  # AFHQ's first version calls its test images val


@dataclass(frozen=True)
class FilePictures:
    """Pictures in files, decoded on access.

    Attributes:
        files: The image files.
    """

    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pixels:
        """Picture ``index`` as a uint8 array of shape (H, W, 3)."""
        return decode_image(self.files[index])

    def check(self, pixel_path: PixelPath) -> None:
        """Read every file's header: all must be images, and of one size after the pixel path.

        Raises:
            GMDataError: Every file that is no image or too small for the crop, and all sizes if there are several.
        """
        problems = Problems(f"real images in {self.files[0].parent}" if self.files else "real images")
        sizes: dict[tuple[int, int], list[Path]] = {}
        for file in self.files:
            try:
                with Image.open(file) as image:
                    width, height = image.size
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                problems.add(Kind.UNREADABLE, f"{file}: {error}")
                continue
            if pixel_path.center_crop and min(width, height) < pixel_path.center_crop:
                problems.add(Kind.CROP_TOO_LARGE, f"{file}: {width}x{height}, center_crop is {pixel_path.center_crop}")
            else:
                sizes.setdefault(pixel_path.size_after(height, width), []).append(file)
        if len(sizes) > 1:
            for (height, width), files in sorted(sizes.items()):
                problems.add(
                    Kind.MIXED_SIZES, f"{width}x{height} (width x height): {len(files)} images; first: {files[0]}"
                )
        problems.raise_if_any()


def _list_images(folder: Path) -> tuple[Path, ...]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name.lower().endswith(IMAGE_SUFFIXES))
    return tuple(
        sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    )


def load_image_folder(
    root: Path | None,
    split: str,
    download: bool = False,
    name: str | None = None,
    licence: str = "not stated",
    with_classes: bool = True,
) -> RealSet:
    """Every image below a folder.

    ``root/train`` and ``root/test`` (or ``root/val``) are the splits where they exist; without them the whole folder is
    ``train``, and there is no ``test``. Where all images lie one folder deep, these folders are the classes.

    Args:
        root: The folder.
        split: ``train`` or ``test``.
        download: Not possible here.
        name: Name of the set; None for the folder's.
        licence: What its authors say.
        with_classes: Whether folders can be classes; CelebA-HQ's and FFHQ's are only shares of the files.

    Raises:
        FileNotFoundError: There is no such folder, no image in it, or no such split.
    """
    label = name or "an image folder"
    if root is None or not root.is_dir():
        raise FileNotFoundError(
            f"{label}: root is {root}; expected a folder of {', '.join(IMAGE_SUFFIXES)} files (it cannot be downloaded)"
        )
    folder = next((root / part for part in _SPLIT_FOLDERS[split] if (root / part).is_dir()), None)
    if folder is None and split == "test":
        raise FileNotFoundError(f"{root}: no folder test/ or val/; without them all images are the split 'train'")
    folder = folder or root
    files = _list_images(folder)
    if not files:
        raise FileNotFoundError(f"{folder}: no {', '.join(IMAGE_SUFFIXES)} file in it or below")
    parents = [file.relative_to(folder).parts[:-1] for file in files]
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if with_classes and all(len(parts) == 1 for parts in parents):
        classes = tuple(sorted({parts[0] for parts in parents}))
        positions = {class_name: position for position, class_name in enumerate(classes)}
        labels = np.array([positions[parts[0]] for parts in parents], dtype=np.int64)
    plain = re.sub(r"[^A-Za-z0-9._+-]", "_", root.resolve().name) or "folder"
    return RealSet(name or plain, split, FilePictures(files), labels, classes, licence)


load_celeba_hq = partial(
    load_image_folder,
    name="celeba_hq",
    licence="non-commercial research only, see the set's agreement",
    with_classes=False,
)
load_ffhq = partial(load_image_folder, name="ffhq", licence="CC-BY-NC-SA-4.0", with_classes=False)
load_afhq = partial(load_image_folder, name="afhq", licence="CC-BY-NC-4.0")
