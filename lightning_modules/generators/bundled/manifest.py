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
    """Names of the shipped sources, sorted."""
    return sorted(read_manifest(folder))


def shipped_images(name: str, seed: int, folder: Path = WEIGHTS_FOLDER) -> NDArray[np.uint8]:
    """The first images of a source that are shipped because sampling them takes long.

    Returns:
        uint8 `(n, 28, 28)`, grey, without frame: samples 0 .. n-1 of that seed. n is 0 if none are shipped for it.

    Raises:
        ValueError: no such source, or the images are not the ones the manifest describes.
    """
    from lightning_modules.generators.small_networks.grey import INNER_SIZE  # here: the manifest alone needs no torch

    images = manifest_entry(name, folder).get("images")
    if images is None or images["seed"] != seed:
        return np.zeros((0, INNER_SIZE, INNER_SIZE), dtype=np.uint8)
    pixels = gzip.decompress(read_checked(folder / images["file"], images["sha256"]))
    return np.frombuffer(pixels, dtype=np.uint8).reshape(-1, INNER_SIZE, INNER_SIZE)


def manifest_entry(name: str, folder: Path) -> dict[str, Any]:
    """The manifest's entry of one source; a ValueError names the nearest."""
    manifest = read_manifest(folder)
    return manifest[check_name("bundled source", name, manifest)]


def read_checked(path: Path, expected: str) -> bytes:
    """The content of a shipped file, which must be there and have the SHA-256 `expected`."""
    if not path.is_file():
        raise FileNotFoundError(f"found no {path}, though the manifest names it; restore it from the repository")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(f"{path}: found sha256 {found}, expected {expected}; restore the file from the repository")
    return content
