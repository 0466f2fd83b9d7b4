"""Small GM data sets on disk, in the real file formats; no test in here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def pixels(key: str, number: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """A smooth random picture that depends on (key, number) alone: uint8 (H, W, 3)."""
    rng = np.random.default_rng([number, *key.encode()])
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BILINEAR)).copy()
    picture[0, 0] = (number % 256, number // 256, sum(key.encode()) % 256)  # distinct whatever the noise
    return picture


def write_source(
    root: Path,
    name: str,
    count: int,
    suffix: str = "png",
    size: tuple[int, int] = (16, 16),
    start: int = 0,
    key: str | None = None,
    **options: Any,
) -> list[Path]:
    """Write ``count`` pictures of a source as files; ``options`` go to Pillow."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(start, start + count):
        file = folder / f"{number:05d}.{suffix}"
        Image.fromarray(pixels(key or name, number, size)).save(file, **options)
        files.append(file)
    return files


def write_gm(root: Path, count: int = 20, reals: int = 40, sources: tuple[str, ...] = ("gan-a", "vae-b")) -> Path:
    """A sound GM data set of PNG files."""
    for source in sources:
        write_source(root, source, count)
    write_source(root, "real-x", reals)
    return root


def write_genimage(root: Path, train: int = 20, val: int = 6) -> Path:
    """Three of its folders: as in its description, with the archive's folder inside, and that folder alone."""
    for folder in ("Midjourney", "stable_diffusion_v_1_4/imagenet_ai_0419_sdv4", "imagenet_ai_0419_biggan"):
        for split, count in (("train", train), ("val", val)):
            for kind in ("ai", "nature"):
                write_source(root, f"{folder}/{split}/{kind}", count)
    return root


def write_attribution_bench(root: Path, count: int = 40) -> Path:
    """Three of its models and its reals, of two kinds; two images of each prompt."""
    for model in ("4o", "SD1_5", "mid-6.0", "real"):
        for place in ("HumanFace/FFHQ", "COCO"):
            files = write_source(root, f"{model}/{place}", count)
            for number, file in enumerate(files):
                if model != "real":
                    file.rename(file.with_name(f"{model}_p{number // 2}_i{number % 2}.png"))
    return root
