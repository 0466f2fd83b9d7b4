"""CelebA (Liu et al. 2015): aligned faces, cropped to 140 px and scaled to 64 px for GM-CelebA (ManiFPT, Table 1)."""

from __future__ import annotations

from pathlib import Path

from datamodules.images.image_io import Pixels, decode_image
from datamodules.images.pixel_path import PixelPath
from datamodules.real.registry import LazyPictures, RealSet

DEFAULT_ROOT = Path("data")
LICENCE = "non-commercial research only, see the set's agreement"
CROP_AND_SCALE = PixelPath(center_crop=140, resize=64)


def load_celeba(root: Path | None, split: str, download: bool = False) -> RealSet:
    """The aligned and cropped faces: 162,770 training or 19,962 test pictures, uint8 (64, 64, 3), without classes.

    ``root``, by default ``data``, holds torchvision's ``celeba/``: ``img_align_celeba/`` and the annotation files.

    Raises:
        FileNotFoundError: The files are not there, or not the original ones.
    """
    from torchvision.datasets import CelebA

    root = root or DEFAULT_ROOT
    try:
        data = CelebA(root, split=split, download=download)
    except (OSError, RuntimeError, ImportError) as error:
        raise FileNotFoundError(
            f"CelebA: {root} holds no complete celeba/ as torchvision lays it out ({error}). Put img_align_celeba/, "
            "list_eval_partition.txt, identity_CelebA.txt, list_attr_celeba.txt, list_bbox_celeba.txt and "
            "list_landmarks_align_celeba.txt into root/celeba/, or allow torchvision's download with `download: true`. "
            "The images alone can be read as the set `folder` with center_crop 140 and resize 64."
        ) from error
    folder = Path(data.root) / data.base_folder / "img_align_celeba"
    names = list(data.filename)

    def picture(index: int) -> Pixels:
        return CROP_AND_SCALE(decode_image(folder / names[index]))

    return RealSet("celeba", split, LazyPictures(len(names), picture), None, (), LICENCE)
