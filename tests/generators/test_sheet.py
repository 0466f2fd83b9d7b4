from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from lightning_modules.generators.image_writing import save_sheet


def test_sheet_shows_images_row_by_row_with_gaps(tmp_path):
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 4, 5) * 100
    save_sheet(images, tmp_path / "new" / "sheet.png", columns=2, gap=1)
    with Image.open(tmp_path / "new" / "sheet.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (2 * 5 + 1, 2 * 6 + 1, 3)
    assert (pixels[1:5, 1:6] == 0).all()
    assert (pixels[1:5, 7:12] == 100).all()
    assert (pixels[6:10, 1:6] == 200).all()
    assert (pixels[6:10, 7:12] == 255).all()  # no fourth image
    assert (pixels[0] == 255).all()
