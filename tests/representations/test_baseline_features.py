"""What the methods that ManiFPT is compared with compute of an image, against slow loops over single pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reals_for_tests import random_bytes
from scipy.ndimage import uniform_filter
from scipy.optimize import minimize

from lightning_modules.artifacts.embeddings.filters import channels_of
from lightning_modules.representations.baselines.denoising_residual import wiener
from lightning_modules.representations.baselines.spectrum_decay import upper_spectrum
from lightning_modules.representations.batches import Representations
from lightning_modules.representations.registry import Inputs, build_representation
from lightning_modules.representations.settings import ManifoldSettings

CHOICES = [
    "saturation", "colour_ratios", "cooccurrence", {"name": "cooccurrence", "distance": 5, "symmetric": True},
    "radial_spectrum", "spectrum_decay", "denoising_residual", {"name": "vector", "embedding": "residual"},
    {"name": "vector", "half": True, "embedding": {"name": "freq", "channels": "ycbcr", "high_pass": True}},
]  # fmt: skip


def photographs(count=4, height=32, width=32):
    """Images with some of everything: gradients, noise, black and white areas."""
    pixels = random_bytes(count, 3, height, width).float()
    smooth = torch.linspace(0, 255, width).expand(count, 3, height, width)
    seen = (0.7 * smooth + 0.3 * pixels).round()
    seen[:, :, : height // 4, : width // 3] = 0
    seen[:, :, -height // 4 :, -width // 4 :] = 255
    return seen / 255


def of(choice, images):
    return build_representation(choice)(Inputs(images, images))


def grey_of(image):
    """Luma in whole numbers, pixel by pixel: float64 (H, W) of an image (3, H, W)."""
    levels = np.rint(image.numpy() * 255).astype(int)
    red, green, blue = levels
    return np.floor((299 * red + 587 * green + 114 * blue) / 1000 + 0.5)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_an_image_is_represented_by_itself_in_the_shape_that_is_told(choice, shape):
    images = photographs(5, *shape)
    batch = {"image": images, "content_id": torch.arange(5)}
    made = Representations("rgb", [choice], [], 0, ManifoldSettings())
    (name,) = made.main
    found = made(batch, [name]).tensors[name]
    assert tuple(found.shape[1:]) == made.output_shapes(shape)[name]
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    for place in (0, 3):
        alone = made({key: value[place : place + 1] for key, value in batch.items()}, [name]).tensors[name]
        assert torch.equal(alone[0], found[place])
    for flat in (torch.zeros(1, 3, *shape), torch.ones(1, 3, *shape)):
        assert bool(made({**batch, "image": flat}, [name]).tensors[name].isfinite().all())


def test_saturation_counts_bright_and_dark_pixels():
    images = photographs()
    for image, found in zip(images, of("saturation", images), strict=True):
        grey = grey_of(image)
        over = [(grey >= level).mean() for level in (240, 245, 250, 255)]
        under = [(grey <= level).mean() for level in (0, 5, 10, 15)]
        np.testing.assert_allclose(found, over + under, rtol=1e-6)
        assert min(over + under) > 0


def test_colour_ratios_are_a_histogram_of_pixels_that_have_a_colour():
    images = photographs(2)
    for image, found in zip(images, of({"name": "colour_ratios", "bins": 4}, images), strict=True):
        counts = np.zeros((4, 4))
        for red, green, blue in np.rint(image.numpy() * 255).astype(int).reshape(3, -1).T.tolist():
            if total := red + green + blue:
                counts[min(3, 4 * red // total), min(3, 4 * green // total)] += 1
        np.testing.assert_allclose(found.view(4, 4), counts / counts.sum(), rtol=1e-6)
    assert not of("colour_ratios", torch.zeros(1, 3, 8, 8)).any()
    with pytest.raises(ValueError, match="found bins 1"):
        build_representation({"name": "colour_ratios", "bins": 1})


@pytest.mark.parametrize(("distance", "symmetric"), [(1, False), (5, True)])
def test_cooccurrences_are_counted_pair_by_pair(distance, symmetric):
    images = photographs(2, 6, 9)
    choice = {"name": "cooccurrence", "distance": distance, "symmetric": symmetric}
    for image, found in zip(images, of(choice, images), strict=True):
        counts = np.zeros((3, 256, 256))
        for channel, plane in enumerate(np.rint(image.numpy() * 255).astype(int)):
            for row in plane:
                for left, right in zip(row, row[distance:], strict=False):
                    counts[channel, left, right] += 1
                    counts[channel, right, left] += symmetric
        np.testing.assert_allclose(found, counts / counts[0].sum(), rtol=1e-6)


def test_cooccurrences_of_mirrored_images_are_transposed():
    images = photographs(2)
    made = Representations("rgb", ["cooccurrence"], [], 0, ManifoldSettings())
    seen, other = (
        made({"image": each, "content_id": torch.arange(2)}, ["cooccurrence"]).tensors
        for each in (images, images.flip(-1))
    )
    assert torch.equal(made.mirrored(seen)["cooccurrence"], other["cooccurrence"])
    assert not torch.equal(seen["cooccurrence"], other["cooccurrence"])


def test_cooccurrences_need_room():
    with pytest.raises(ValueError, match="4 px wide for co-occurrences at a distance of 4 px"):
        of({"name": "cooccurrence", "distance": 4}, torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="found distance 0"):
        build_representation({"name": "cooccurrence", "distance": 0})


@pytest.mark.parametrize(("size", "features"), [(32, 20), (128, 88), (256, 179), (1024, 722)])
def test_radial_spectra_are_as_long_as_those_of_the_authors(size, features):
    assert build_representation("radial_spectrum").output_shape((3, size, size), ()) == (features,)


def test_radial_spectrum_is_the_mean_over_whole_radii():
    images = photographs(2)
    for image, found in zip(images, of("radial_spectrum", images), strict=True):
        power = 20 * np.log(np.abs(np.fft.fftshift(np.fft.fft2(grey_of(image)))) + 1e-8)
        radii = {}
        for row in range(32):
            for column in range(32):
                radii.setdefault(int(math.hypot(row - 15.5, column - 15.5)), []).append(power[row, column])
        means = [np.mean(radii[radius]) for radius in sorted(radii)]
        np.testing.assert_allclose(found, means[1:-1], rtol=1e-5)


def test_decay_is_the_power_law_that_nelder_and_mead_find():
    images = photographs(3, 64, 64)
    spectra = np.stack([np.abs(np.fft.fftshift(np.fft.fft2(grey_of(image)))) for image in images])
    corner = math.hypot(32, 32)
    count = math.floor(corner) - math.floor(corner / 2)
    bins = [[[] for _ in range(count)] for _ in images]
    for row in range(64):
        for column in range(64):
            radius = math.hypot(row - 32, column - 32)
            if radius >= corner / 2:
                place = min(count - 1, int((radius - corner / 2) / (corner / 2 / count)))
                for spectrum, held in zip(spectra, bins, strict=True):
                    held[place].append(spectrum[row, column])
    for held, found in zip(bins, of("spectrum_decay", images), strict=True):
        means = np.array([np.mean(values) for values in held])
        smooth = np.array([means[max(0, place - 2) : place + 3].mean() for place in range(count)])
        x = 0.5 + (np.arange(count) + 0.5) / count / 2
        x, y = x[x >= 0.75], smooth[x >= 0.75]
        best = minimize(
            lambda c, x=x, y=y: np.square(y[0] * (x / x[0]) ** c - y).sum(),
            [-2.0],
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-12},
        )
        np.testing.assert_allclose(found, [best.x[0], y[0], y[-1]], rtol=1e-5)


def test_empty_bins_take_the_value_of_the_nearest():
    """The corner of a small image is the only pixel of its ring, and rings before it have none."""
    radii, means = upper_spectrum(torch.from_numpy(grey_of(photographs(1, 8, 8)[0]))[None])
    assert len(radii) == means.shape[1] == 5
    assert bool((means > 0).all())


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_decay_needs_a_threshold_among_high_frequencies(threshold):
    with pytest.raises(ValueError, match=f"found threshold {threshold}"):
        build_representation({"name": "spectrum_decay", "threshold": threshold})


def test_residual_is_what_a_wiener_filter_takes_away():
    image = photographs(1)[0].double()
    for channel, found in zip(image.numpy(), wiener(image[None])[0].numpy(), strict=True):
        mean = uniform_filter(channel, 3, mode="mirror")
        variance = uniform_filter(channel**2, 3, mode="mirror") - mean**2
        noise = variance.mean()
        kept = 1 - noise / np.maximum(variance, noise)
        expected = mean + kept * (channel - mean)
        np.testing.assert_allclose(found, expected, atol=1e-9)
    residual = of("denoising_residual", image.float()[None])
    torch.testing.assert_close(residual.view(3, 32, 32), (image - wiener(image[None])[0]).float())


def test_half_of_a_spectrum_holds_all_of_it():
    images = photographs(2)
    batch = {"image": images, "content_id": torch.arange(2)}
    space = {"name": "freq", "channels": "grey"}
    whole, half = (
        Representations("rgb", [{"name": "vector", "embedding": space, "half": each}], [], 0, ManifoldSettings())
        for each in (False, True)
    )
    shown = whole(batch, whole.main).tensors[whole.main[0]].view(2, 32, 32)
    found = half(batch, half.main).tensors[half.main[0]].view(2, 32, 17)
    assert torch.equal(found, shown[..., :17])
    for row in range(1, 32):  # column c stands for column -c, about the middle
        torch.testing.assert_close(shown[:, row, 17:], found[:, (32 - row) % 32, 1:16].flip(-1))


def test_grey_images_have_no_chroma_at_all():
    """Rounding errors there would be the spectrum of a residual that is zero."""
    grey = random_bytes(2, 1, 16, 16).expand(-1, 3, -1, -1).double() / 255
    assert bool((channels_of(grey, "ycbcr")[:, 1:] == 0.5).all())
    choice = {"name": "vector", "embedding": {"name": "freq", "channels": "ycbcr", "high_pass": True}}
    made = Representations("rgb", [choice], [], 0, ManifoldSettings())
    batch = {"image": grey.float(), "content_id": torch.arange(2)}
    chroma = made(batch, made.main).tensors[made.main[0]].view(2, 3, -1)[:, 1:]
    assert torch.equal(chroma[0], chroma[1])
    assert float(chroma.max() - chroma.min()) < 1e-4
