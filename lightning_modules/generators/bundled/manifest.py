"""What is shipped: the manifest of the sources, and their files checked by hash."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from lightning_modules.common.tables import check_name

WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"
MANIFEST_NAME = "sources.yaml"
BLACK_BELOW = 8
"""8-bit values below this one are written as 0 in GM-Fashion.

The garments stand on exact black. Most generators leave values of 1 to 5 there, and how many they leave names the
source without a look at the garment: logistic regression on the counts of the 16 darkest values named 68 % of the
test images of eight classes before all images got one ground.
"""
WHITE_ABOVE = 255
"""8-bit values above this one are written as 255: 255 changes none. The emoji stand on exact white, as garments do on
black, and the configs of GM-Emoji set 247."""


def read_manifest(folder: Path = WEIGHTS_FOLDER) -> dict[str, dict[str, Any]]:
    """Read what is known about each shipped source, keyed by its name `<family>-<model>`.

    Raises:
        FileNotFoundError: the folder holds no manifest.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise FileNotFoundError(f"found no {path}; the folder of the bundled weights must hold {MANIFEST_NAME}")
    manifest: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())
    return manifest


def bundled_sources(folder: Path = WEIGHTS_FOLDER) -> list[str]:
    """Names of the shipped sources, sorted: those of GM-Fashion, then `SET/NAME` of the sets in folders below."""
    sets = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST_NAME}"))
    names = [f"{each}/{name}" for each in sets for name in sorted(read_manifest(folder / each))]
    return [*sorted(read_manifest(folder)), *names]


def shipped_images(name: str, seed: int, folder: Path = WEIGHTS_FOLDER) -> NDArray[np.uint8]:
    """The first images of a source that are shipped because sampling them takes long.

    Returns:
        uint8, samples 0 .. n-1 of that seed: `(n, 28, 28)`, grey and without frame, or in colour `(n, 32, 32, 3)`.
        n is 0 if none are shipped for the seed.

    Raises:
        ValueError: no such source, or the images are not the ones the manifest describes.
    """
    from lightning_modules.generators.small_networks.base import INNER_SIZE  # here: the manifest alone needs no torch

    entry, folder = manifest_entry(name, folder)
    images = entry.get("images")
    shape = (INNER_SIZE, INNER_SIZE) if images is None else tuple(images.get("shape", (INNER_SIZE, INNER_SIZE)))
    if images is None or images["seed"] != seed:
        return np.zeros((0, *shape), dtype=np.uint8)
    pixels = gzip.decompress(read_checked(folder / images["file"], images["sha256"]))
    return np.frombuffer(pixels, dtype=np.uint8).reshape(-1, *shape)


def manifest_entry(name: str, folder: Path = WEIGHTS_FOLDER) -> tuple[dict[str, Any], Path]:
    """The manifest's entry of one source, and the folder of its files; a ValueError names the nearest."""
    check_name("bundled source", name, bundled_sources(folder))
    each, _, own = name.rpartition("/")
    return read_manifest(folder / each)[own], folder / each


def folder_name(name: str) -> str:
    """Folder of a source in a data set: `gan-dcgan` for `emoji/gan-dcgan` too, one label for one network."""
    return name.rpartition("/")[2]


def read_checked(path: Path, expected: str) -> bytes:
    """The content of a shipped file, which must be there and have the SHA-256 `expected`."""
    if not path.is_file():
        raise FileNotFoundError(f"found no {path}, though the manifest names it; restore it from the repository")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(f"{path}: found sha256 {found}, expected {expected}; restore the file from the repository")
    return content
