"""Patches of colour photographs, from a Debian package that whoever runs the benchmarks installs.

The photographs among the wallpapers of plasma-workspace-wallpapers, at 2,560 px or less across, whole, at half and at a
quarter of their size. Queries come from photographs that give no reference.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

FOLDER = Path("/usr/share/wallpapers")
REFERENCES = ("BytheWater", "ColdRipple", "DarkestHour", "FallenLeaf", "Grey", "Kite", "OneStandsOut", "summer_1am")
HELD_OUT = ("ColorfulCups", "EveningGlow", "Path")
ACROSS, SHRUNK = 2560, (1, 2, 4)


def photograph(name, folder=FOLDER):
    """The largest file of a wallpaper. Fails, and says what to install, where it is missing."""
    files = sorted((folder / name / "contents" / "images").glob("*.*"), key=lambda path: path.stat().st_size)
    if not files:
        pytest.fail(
            f"found no photograph {name} in {folder}, expected those of a Debian package; install it: "
            "apt-get install --no-install-recommends plasma-workspace-wallpapers"
        )
    image = Image.open(files[-1]).convert("RGB")
    if image.width > ACROSS:
        image = image.resize((ACROSS, image.height * ACROSS // image.width), Image.Resampling.BOX)
    return image


def patches(names, size, count, seed, folder=FOLDER):
    """uint8 (count, 3, size, size): as many of each photograph, at random places, in random order."""
    generator, cut = np.random.default_rng(seed), []
    for name in names:
        image = photograph(name, folder)
        shrunk = [np.asarray(image.resize((image.width // s, image.height // s), Image.Resampling.BOX)) for s in SHRUNK]
        for i in range(-(-count // len(names))):
            pixels = shrunk[i % len(shrunk)]
            top, left = (int(generator.integers(0, pixels.shape[axis] - size + 1)) for axis in (0, 1))
            cut.append(pixels[top : top + size, left : left + size])
    chosen = generator.permutation(len(cut))[:count]
    return torch.from_numpy(np.stack([cut[i] for i in chosen])).permute(0, 3, 1, 2).contiguous()


def half_resolution(images):
    """What a generator that lacks fine detail would make of them: a half in size and back, bicubic; uint8."""
    small = torch.nn.functional.avg_pool2d(images.float(), 2)
    back = torch.nn.functional.interpolate(small, scale_factor=2, mode="bicubic")
    return back.round().clamp(0, 255).to(torch.uint8)


def jpeg(images, quality=20):
    """The images as strongly compressed files give them back; uint8."""
    read = []
    for image in images.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        read.append(np.asarray(Image.open(file).convert("RGB")))
    return torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).contiguous()


KINDS = {"held-out": lambda images: images, "half resolution": half_resolution, "JPEG 20": jpeg}
"""Kinds of queries, made of patches of the photographs held out."""
