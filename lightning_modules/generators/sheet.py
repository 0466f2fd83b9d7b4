"""A sheet of sample images, for a person to look at."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from lightning_modules.common.files import write_bytes


def save_sheet(images: Tensor, path: Path, columns: int = 8, gap: int = 2) -> None:
    """Write images side by side, row by row, as one PNG.

    Args:
        images: uint8 `(n, 3, h, w)`, n at least 1.
        path: file to write; its folder is made if needed.
        columns: images per row.
        gap: white pixels between neighbours.
    """
    n, _, height, width = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG", optimize=True)
    write_bytes(path, buffer.getvalue())
