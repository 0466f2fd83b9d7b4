"""Crop, resize and re-encode, against torchvision and Pillow."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from gm_folders import pixels
from PIL import Image
from torchvision import transforms

from datamodules.images.pixel_path import PixelPath, fit


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


@pytest.fixture
def picture():
    """A picture without a flat row or column."""
    return np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)


def test_a_picture_of_the_size_is_not_touched_by_the_fit(picture):
    assert PixelPath(fitted=(24, 24))(picture) is not None
    assert np.array_equal(PixelPath(fitted=(24, 24))(picture), picture)
    assert fit(picture, (24, 24)) is picture
    assert not PixelPath(fitted=(24, 24)).keeps_pixels
    assert PixelPath(fitted=(24, 24)).key != PixelPath().key


@pytest.mark.parametrize("shape", [(12, 12), (60, 60), (30, 50)])
def test_other_sizes_are_resized_by_lanczos_whatever_their_shape(shape):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((24, 20), Image.Resampling.LANCZOS))
    assert np.array_equal(fit(pixels, (20, 24)), expected)
    assert PixelPath(fitted=(20, 24)).size_after(*shape) == (20, 24)


@pytest.mark.parametrize("bars", [(0, 16), (16, 0), (8, 8), (7, 8), (8, 7)])
@pytest.mark.parametrize("upright", [True, False])
def test_flat_bars_that_make_a_picture_longer_are_cut_off(picture, bars, upright):
    bars_colour = np.full((1, 24, 3), (10, 20, 30), dtype=np.uint8)
    longer = np.concatenate([bars_colour.repeat(bars[0], 0), picture, bars_colour.repeat(bars[1], 0)])
    longer = longer if upright else longer.transpose(1, 0, 2)
    expected = picture if upright else picture.transpose(1, 0, 2)
    assert np.array_equal(fit(np.ascontiguousarray(longer), (24, 24)), expected)


def test_bars_too_narrow_for_the_shape_stay(picture):
    longer = np.concatenate([picture[:10], picture, np.zeros((4, 24, 3), dtype=np.uint8)])
    expected = np.asarray(Image.fromarray(longer).resize((24, 24), Image.Resampling.LANCZOS))
    assert np.array_equal(fit(longer, (24, 24)), expected)
