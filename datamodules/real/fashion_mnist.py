"""Fashion-MNIST (Xiao et al. 2017, MIT): 28 px grey garments, padded to 32 px with black, replicated to RGB."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.images.image_io import Pixels
from datamodules.real.registry import LazyPictures, RealSet

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
DEBIAN_ROOT = Path("/usr/share/datasets/fashion-mnist")
SAMPLE_ROOT = Path(__file__).parent / "data" / "fashion_mnist_sample"
_PAD = 2  # 28 + 2 * 2 = 32, a size that halves down to 4


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one of LeCun's IDX files of unsigned bytes, gzipped or plain.

    Raises:
        ValueError: The file is no IDX file of bytes, or shorter than its header says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: truncated or not gzip ({error}); fetch the file again") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path}: starts with {data[:4]!r}, expected an IDX header of unsigned bytes")
    axes = data[3]
    shape = struct.unpack_from(f">{axes}I", data, 4)
    body = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * axes)
    if body.size != int(np.prod(shape)):
        raise ValueError(f"{path}: holds {body.size} values, its header promises {shape}; fetch the file again")
    return body.reshape(shape)


def _find(root: Path, stem: str) -> Path | None:
    folders = (root, root / "FashionMNIST" / "raw")  # the second is torchvision's layout
    files = (folder / name for folder in folders for name in (f"{stem}.gz", stem))
    return next((file for file in files if file.is_file()), None)


def _locate(root: Path | None, download: bool) -> Path:
    if _find(root or DEBIAN_ROOT, "train-images-idx3-ubyte"):
        return root or DEBIAN_ROOT
    if download:
        from torchvision.datasets import FashionMNIST

        target = root or Path("data/fashion-mnist")
        try:
            FashionMNIST(target, download=True)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"Fashion-MNIST could not be downloaded to {target} ({error}). Without a network, install Debian's "
                f"package dataset-fashion-mnist or copy its four idx files to {target}."
            ) from error
        return target
    raise FileNotFoundError(
        f"Fashion-MNIST: no train-images-idx3-ubyte(.gz) in {root or DEBIAN_ROOT}. Install Debian's package "
        "dataset-fashion-mnist, name a folder with the four idx files as root, allow torchvision's download with "
        "`download: true`, or use the sample that ships: `fashion_sample`."
    )


def _read(root: Path, split: str) -> RealSet:
    stem = {"train": "train", "test": "t10k"}[split]
    image_path, label_path = _find(root, f"{stem}-images-idx3-ubyte"), _find(root, f"{stem}-labels-idx1-ubyte")
    if image_path is None or label_path is None:
        raise FileNotFoundError(f"{root}: expected {stem}-images-idx3-ubyte(.gz) and {stem}-labels-idx1-ubyte(.gz)")
    images, labels = read_idx(image_path), read_idx(label_path)
    if len(images) != len(labels):
        raise ValueError(f"{root}: {len(images)} images, {len(labels)} labels in the {split} files; fetch them again")

    def picture(index: int) -> Pixels:
        return np.repeat(np.pad(images[index], _PAD)[:, :, None], 3, axis=2)

    return RealSet("fashion", split, LazyPictures(len(images), picture), labels.astype(np.int64), CLASSES, "MIT")


def load_fashion_mnist(root: Path | None, split: str, download: bool = False) -> RealSet:
    """The whole set: 60,000 training or 10,000 test pictures, uint8 (32, 32, 3).

    ``root`` holds the four IDX files; by default it is where Debian's package puts them.

    Raises:
        FileNotFoundError: The files are not there; the message names every way to get them.
    """
    return _read(_locate(root, download), split)


def load_fashion_sample(root: Path | None, split: str, download: bool = False) -> RealSet:
    """The sample that ships: first pictures of each split in the set's format; ``root``, ``download`` play no part."""
    return _read(SAMPLE_ROOT, split)
