"""PNG files for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def save_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write 8-bit RGB pixels (H, W, 3); the folder is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode="RGB").save(path, format="PNG", compress_level=6)
