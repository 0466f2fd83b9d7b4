from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.generators.bundled import load_bundled
from lightning_modules.generators.samples import main
from lightning_modules.generators.sampling import synthesize_block, write_png
from lightning_modules.generators.sheet import save_sheet


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


def test_command_shows_bundled_sources_and_folders(tmp_path):
    real = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (tmp_path / "real-noise").mkdir()
    write_png(real, tmp_path / "real-noise" / "0000000.png")
    main([str(tmp_path), "vae-beta-vae", str(tmp_path / "real-noise"), "--images", "2", "--seed", "3"])
    with Image.open(tmp_path / "samples_real-noise.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[2:34, 2:34], real)
    second = synthesize_block(load_bundled("vae-beta-vae"), 3, 0)[1].permute(1, 2, 0).numpy()
    with Image.open(tmp_path / "samples_vae-beta-vae.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[2:34, 36:68], second)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \*\.png"):
        main([str(tmp_path), str(tmp_path)])
