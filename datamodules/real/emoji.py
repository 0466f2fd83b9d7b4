"""Noto colour emoji (Google, Apache-2.0) on white, 32 or 64 px: the reals of GM-Emoji.

The pictures come from the registry package ``emoji-datasource-google``, whose ``emoji.json`` names and sorts them.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from datamodules.images.image_io import Pixels
from datamodules.real.registry import LazyPictures, RealSet
from lightning_modules.common.files import write_bytes

PACKAGE = "emoji-datasource-google"
DEFAULT_ROOT = Path("node_modules") / PACKAGE
LICENCE = "Apache-2.0"
CLASSES = (
    "Smileys & Emotion",
    "People & Body",
    "Component",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
"""Unicode's groups of emoji, in its order."""
TEST_SHARE = 0.18
"""Share of the groups of look-alikes in the test split; leaves a training split of 3,085 pictures."""
SAMPLE_SHARES = {"train": 1 / 3, "test": 1 / 2}
"""Shares of the groups of each split that ship as `emoji_sample`, at 32 px."""
SAMPLE_ROOT = Path(__file__).parent / "data" / "noto_emoji_sample"
_SAMPLE_SIZE = 32
_SIZE = 64
_SKIN_TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})
# man, woman, person; male, female sign; facing right; joiner, picture selector: a running man and a running woman are
# nearly one picture
_ALIKE = _SKIN_TONES | {"1F468", "1F469", "1F9D1", "2640", "2642", "27A1", "200D", "FE0F"}
_PICTURES = Path("img") / "google" / str(_SIZE)


def on_white(rgba: NDArray[np.uint8], size: int) -> Pixels:
    """RGBA pixels (H, W, 4) pasted on white and scaled to (size, size, 3) by the mean over squares; rounded once."""
    alpha = rgba[..., 3:].astype(np.int64)
    levels = alpha * rgba[..., :3] + (255 - alpha) * 255  # times 255
    side = rgba.shape[0] // size
    total = levels.reshape(size, side, size, side, 3).sum(axis=(1, 3))
    count = 255 * side**2
    pixels: Pixels = ((2 * total + count) // (2 * count)).astype(np.uint8)
    return pixels


def place_of(unified: str) -> tuple[str, float]:
    """Split of the emoji of code points such as ``1F3C3-200D-2642-FE0F``, and its place there, in [0, 1).

    All skin tones of an emoji have one place, and so have its man, its woman and the one that faces right.
    """
    drawn = "-".join(point for point in unified.split("-") if point not in _ALIKE) or unified
    number = int.from_bytes(hashlib.sha256(drawn.encode()).digest()[:8], "big") / 2**64
    if number < TEST_SHARE:
        return "test", number / TEST_SHARE
    return "train", (number - TEST_SHARE) / (1 - TEST_SHARE)


def load_emoji(root: Path | None, split: str, download: bool = False, size: int = 32) -> RealSet:
    """Every picture of the package's folder ``root``, by default ``node_modules/emoji-datasource-google``.

    About 3,080 pictures for training and 690 for test, uint8 (size, size, 3), size 32 or 64; classes are Unicode's
    groups. Pictures that are equal to an earlier one (flags of territories) are left out.

    Raises:
        FileNotFoundError: The folder, its list or a picture is not there.
        ValueError: The list or a picture is damaged.
    """
    root = root or DEFAULT_ROOT
    folder = root / _PICTURES
    chosen = _chosen(root, split)
    names = [name for name, _, _ in chosen]
    labels = [label for _, _, label in chosen]

    @cache  # a training looks at every picture many times
    def picture(index: int) -> Pixels:
        return _read(folder / names[index], size)

    pictures = LazyPictures(len(names), picture)
    return RealSet("emoji", split, pictures, np.array(labels, dtype=np.int64), CLASSES, LICENCE)


load_emoji_64 = partial(load_emoji, size=_SIZE)


def load_emoji_sample(root: Path | None, split: str, download: bool = False) -> RealSet:
    """The pictures that ship, uint8 (32, 32, 3): a part of each split; ``root`` and ``download`` play no part."""
    path = SAMPLE_ROOT / f"{split}.xz"
    records = np.frombuffer(lzma.decompress(path.read_bytes()), dtype=np.uint8).reshape(-1, 1 + 3 * _SAMPLE_SIZE**2)
    images = records[:, 1:].reshape(-1, _SAMPLE_SIZE, _SAMPLE_SIZE, 3)

    def picture(index: int) -> Pixels:
        pixels: Pixels = images[index]
        return pixels

    pictures = LazyPictures(len(images), picture)
    return RealSet("emoji", split, pictures, records[:, 0].astype(np.int64), CLASSES, LICENCE)


def write_sample(root: Path, folder: Path) -> None:
    """Write ``train.xz`` and ``test.xz`` of ``emoji_sample``: per picture of the package a byte of label, then RGB."""
    for split, share in SAMPLE_SHARES.items():
        real_set = load_emoji(root, split, size=_SAMPLE_SIZE)
        records = [
            bytes([label]) + real_set.pictures[position].tobytes()
            for position, (_, place, label) in enumerate(_chosen(root, split))
            if place < share
        ]
        preset = 9 | lzma.PRESET_EXTREME
        write_bytes(folder / f"{split}.xz", lzma.compress(b"".join(records), format=lzma.FORMAT_XZ, preset=preset))


def _chosen(root: Path, split: str) -> list[tuple[str, float, int]]:
    """File name, place and class of every picture of a split that no earlier picture is equal to."""
    found: list[tuple[str, float, int]] = []
    seen: set[bytes] = set()
    for name, unified, label in _listed(root):
        try:
            content = hashlib.sha256((root / _PICTURES / name).read_bytes()).digest()
        except OSError as error:
            raise _missing(root, f"no {_PICTURES / name} ({error.strerror})") from error
        of, place = place_of(unified)
        if content not in seen and of == split:
            found.append((name, place, label))
        seen.add(content)
    return found


def _missing(root: Path, found: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"Noto emoji: {found} in {root}, expected the folder of the package {PACKAGE}. Fetch it with "
        f"`npm install {PACKAGE}@16.0.0`, or with `npm pack {PACKAGE}@16.0.0` and unpack the archive, and name the "
        "folder that holds emoji.json and img/ as root; or use the pictures that ship: `emoji_sample`."
    )


def _listed(root: Path) -> list[tuple[str, str, int]]:
    """File name, code points of the base emoji and class of every picture, in the package's order."""
    path = root / "emoji.json"
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        found = []
        for entry in entries:
            label = CLASSES.index(entry["category"])
            tones = entry.get("skin_variations", {}).values()
            found += [(one["image"], entry["unified"], label) for one in (entry, *tones) if one["has_img_google"]]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _missing(root, "no emoji.json") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the list of {PACKAGE} ({error!r}); fetch the package again") from error
    return found


def _read(path: Path, size: int) -> Pixels:
    try:
        with Image.open(path) as image:
            rgba = np.asarray(image.convert("RGBA"), dtype=np.uint8)
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path}: no picture that can be read ({error}); fetch {PACKAGE} again") from error
    if rgba.shape[:2] != (_SIZE, _SIZE):
        raise ValueError(
            f"{path}: {rgba.shape[1]} x {rgba.shape[0]} px, expected {_SIZE} x {_SIZE}; fetch {PACKAGE} again"
        )
    return on_white(rgba, size)
