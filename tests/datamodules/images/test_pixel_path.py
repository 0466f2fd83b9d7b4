"""Crop, resize and re-encode, against torchvision and Pillow."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from gm_folders import pixels
from PIL import Image
from torchvision import transforms

from datamodules.images.pixel_path import PixelPath


@pytest.mark.parametrize("size", [(218, 178), (150, 140), (141, 200)])
def test_crop_and_resize_are_torchvisions(size):
    image = pixels("face", 1, size)
    expected = transforms.Compose([transforms.CenterCrop(140), transforms.Resize(64)])(Image.fromarray(image))
    found = PixelPath(center_crop=140, resize=64)(image)
    # an odd margin is rounded down here and to even there: at most one pixel of shift before scaling
    if all((side - 140) % 2 == 0 for side in size):
        assert np.array_equal(found, np.asarray(expected))
    assert found.shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("size", "after"), [((40, 60), (20, 30)), ((60, 40), (30, 20)), ((20, 20), (20, 20)), ((7, 9), (20, 26))]
)
def test_resize_scales_the_shorter_side(size, after):
    path = PixelPath(resize=20)
    assert path(pixels("x", 1, size)).shape[:2] == after
    assert path.size_after(*size) == after


def test_jpeg_95_is_pillows():
    image = pixels("x", 1, (24, 24))
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=2)
    found = PixelPath(reencode="jpeg_95")(image)
    assert np.array_equal(found, np.asarray(Image.open(buffer)))
    assert not np.array_equal(found, image)


def test_png_keeps_every_pixel():
    image = pixels("x", 1)
    assert np.array_equal(PixelPath(reencode="png")(image), image)
    assert PixelPath(reencode="png").key == PixelPath().key
    assert len({PixelPath().key, PixelPath(4).key, PixelPath(None, 4).key, PixelPath(reencode="jpeg_95").key}) == 4
