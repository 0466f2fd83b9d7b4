"""CIFAR-10 (Krizhevsky 2009): 32 px photographs of ten classes, the reals of GM-CIFAR10 (ManiFPT, Table 1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.images.image_io import Pixels
from datamodules.real.registry import LazyPictures, RealSet

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DEFAULT_ROOT = Path("data/cifar10")
LICENCE = "none stated by its authors; cite Krizhevsky 2009"
_RECORD = 1 + 3 * 32 * 32  # one byte of label, then the red, green and blue planes


def read_binary_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images uint8 (N, 32, 32, 3) and labels int64 (N,) of one file of the set's binary version.

    Raises:
        ValueError: The length is no multiple of a record, or a label is above 9.
    """
    data = np.fromfile(path, dtype=np.uint8)
    if data.size == 0 or data.size % _RECORD:
        raise ValueError(f"{path}: {data.size} bytes, expected a multiple of {_RECORD}; fetch the file again")
    records = data.reshape(-1, _RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise ValueError(f"{path}: label {labels.max()}, expected 0 to 9; this is no file of CIFAR-10's binary version")
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _read_binary(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if split == "train" else ["test_batch.bin"]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder}: {', '.join(missing)} not there; fetch CIFAR-10's binary version again")
    batches = [read_binary_batch(folder / name) for name in names]
    return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])


def _read_torchvision(root: Path, split: str, download: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    # The Python version is pickled. torchvision compares every file with the MD5 of the original before it unpickles
    # the first one, so a changed file is refused instead of run.
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10(root, train=split == "train", download=download)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"CIFAR-10: {root} holds neither cifar-10-batches-bin/ nor an unchanged cifar-10-batches-py/ ({error}). "
            "Unpack cifar-10-binary.tar.gz or cifar-10-python.tar.gz there, name the folder that holds it as root, "
            "or allow torchvision's download with `download: true`."
        ) from error
    return np.asarray(data.data, dtype=np.uint8), np.asarray(data.targets, dtype=np.int64)


def load_cifar10(root: Path | None, split: str, download: bool = False) -> RealSet:
    """The whole set: 50,000 training or 10,000 test pictures, uint8 (32, 32, 3).

    ``root``, by default ``data/cifar10``, holds ``cifar-10-batches-bin`` (preferred, read as plain bytes) or
    ``cifar-10-batches-py`` (read by torchvision, which verifies it).

    Raises:
        FileNotFoundError: The files are not there, or not the original ones.
        ValueError: A binary file is damaged.
    """
    root = root or DEFAULT_ROOT
    folders = (root / "cifar-10-batches-bin", root)
    binary = next((folder for folder in folders if (folder / "test_batch.bin").is_file()), None)
    images, labels = _read_binary(binary, split) if binary else _read_torchvision(root, split, download)

    def picture(index: int) -> Pixels:
        return np.ascontiguousarray(images[index])

    return RealSet("cifar10", split, LazyPictures(len(images), picture), labels, CLASSES, LICENCE)
