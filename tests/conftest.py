"""A small GM data set that every test can use: real garments, and three sources that spoil them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from png_files import save_png

from datamodules.real import load_real_set

COUNT = 40


def write_gm(root: Path, count: int = COUNT, manifold: int = 120) -> Path:
    """Sources whose artifacts are easy to tell apart: blur, noise, a dark grid; and held-out reals."""
    reals = load_real_set("fashion_sample", split="test").pictures
    training = load_real_set("fashion_sample", split="train").pictures
    spoil = {
        "gan-grid": lambda pixels, rng: np.where(np.indices((32, 32)).sum(0)[..., None] % 2, pixels, pixels // 2),
        "vae-blur": lambda pixels, rng: np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5))),
        "score-noise": lambda pixels, rng: np.clip(pixels + rng.normal(0, 25, pixels.shape), 0, 255),
    }
    for folder, change in spoil.items():
        (root / folder).mkdir(parents=True)
        for index in range(count):
            rng = np.random.default_rng([index, len(folder)])
            pixels = change(training[2000 + index + 100 * len(folder)], rng).astype(np.uint8)
            save_png(root / folder / f"{index:05d}.png", pixels)
    for folder, pictures, number in (("real-fashion", reals, count), ("manifold-fashion", training, manifold)):
        (root / folder).mkdir(parents=True)
        for index in range(number):
            save_png(root / folder / f"{index:05d}.png", pictures[index])
    return root


@pytest.fixture(scope="session")
def gm_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the small GM data set, shared: read only."""
    return write_gm(tmp_path_factory.mktemp("gm") / "gm-small")
