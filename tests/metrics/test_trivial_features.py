from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.metrics.trivial_features import trivial_accuracies, trivial_features
from lightning_modules.reporting.findings import best_trivial

NAMES = ["gan-a", "real-b"]
FEATURES = ["extreme_values", "colour_histogram", "spectrum", "together"]


def pictures(n: int, seed: int) -> np.ndarray:
    """Smooth blobs on a black ground, uint8 (n, 3, 32, 32)."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(n, 3, 32, 32)), (0, 0, 4, 4))
    blobs = 40 + 60 * np.clip(8 * smooth, -0.5, 2)
    inside = np.hypot(*(np.indices((32, 32)) - 15.5)) < 12
    return np.where(inside, blobs, 0).astype(np.uint8)


def accuracies(first, second, **changes) -> dict[str, Estimate]:
    """Of two sources, each given as (training, test) images in 0 .. 255."""
    training, test = (
        (trivial_features(np.concatenate([first[part], second[part]]) / 255), labels(first[part], second[part]))
        for part in (0, 1)
    )
    return trivial_accuracies(**({"training": training, "test": test, "class_names": NAMES} | changes))


def labels(first, second) -> list[int]:
    return [0] * len(first) + [1] * len(second)


def test_noise_in_the_ground_is_found():
    """One source leaves 1 to 7 of 255 where the other is black: nothing that a person sees."""
    noisy = []
    for seed in (2, 3):
        images = pictures(100, seed)
        noise = np.random.default_rng(seed).integers(0, 8, (*images.shape[:1], 1, 32, 32))
        noisy.append(np.where(images == 0, noise, images).astype(np.uint8))
    found = accuracies((pictures(100, 0), pictures(100, 1)), noisy)
    assert list(found) == FEATURES
    assert found["extreme_values"].value > 0.99
    assert found["colour_histogram"].value < 0.75  # all of it in the first of its steps
    assert found["extreme_values"].n == 200
    assert found["extreme_values"].details["fitted_on"] == "200 training images"


def test_a_shifted_colour_is_found():
    warm = [np.minimum(pictures(100, seed) * np.array([1.8, 1, 1])[:, None, None], 255) for seed in (2, 3)]
    found = accuracies((pictures(100, 0), pictures(100, 1)), [images.astype(np.uint8) for images in warm])
    assert found["colour_histogram"].value > 0.9


def test_a_missing_frequency_is_found_by_the_spectrum_alone():
    """The same pixels in another order: no histogram can tell."""
    rng = np.random.default_rng(9)

    def images(seed):
        return np.random.default_rng(seed).integers(16, 240, (100, 1, 32, 32)).repeat(3, axis=1).astype(np.uint8)

    def sorted_rows(seed):
        shown = images(seed).reshape(100, 3, 32, 32)
        return np.sort(shown, axis=3)[:, :, rng.permutation(32)]

    found = accuracies((images(0), images(1)), (sorted_rows(2), sorted_rows(3)))
    assert found["spectrum"].value > 0.99
    for name in ("extreme_values", "colour_histogram"):
        assert found[name].low < 0.5 < found[name].high


def test_nothing_to_find_is_chance():
    """Features that fit 60 training images by heart are scored on others: the interval holds chance."""
    found = accuracies((pictures(30, 0), pictures(300, 1)), (pictures(30, 2), pictures(300, 3)))
    for name in FEATURES:
        assert found[name].low < 0.5 < found[name].high, name
        assert found[name].details["chance"] == 0.5


def test_accuracy_is_balanced_over_sources():
    """A source with a tenth of the images counts as much: naming the large one always would be 0.5."""
    bright = [np.minimum(pictures(20, seed).astype(int) + 60, 255) for seed in (2, 3)]
    found = accuracies((pictures(200, 0), pictures(200, 1)), bright)
    assert found["extreme_values"].value == pytest.approx(1.0, abs=0.02)
    half = found["extreme_values"]
    assert half.interval == "wilson (mover) 95%"
    assert half.n == 220


def test_without_training_images_each_half_of_the_test_is_scored_by_the_other():
    dark, bright = pictures(40, 0), np.minimum(pictures(40, 1).astype(int) + 60, 255)
    found = accuracies((dark, dark), (bright, bright), training=None)
    assert found["extreme_values"].value > 0.95
    assert found["extreme_values"].details["fitted_on"] == "80 test images, each half scored by the other"
    same = accuracies((pictures(60, 0),) * 2, (pictures(60, 1),) * 2, training=None)
    assert same["together"].low < 0.5 < same["together"].high


def test_one_source_alone_has_no_accuracy():
    features = trivial_features(pictures(10, 0) / 255)
    assert trivial_accuracies((features, [0] * 10), (features, [0] * 10), NAMES) == {}


def test_a_row_depends_on_its_image_alone_and_a_fit_on_its_images():
    images = pictures(9, 0).astype(np.float32) / np.float32(255)
    whole = trivial_features(images)
    assert whole.shape == (9, 97)
    parts = np.concatenate([trivial_features(images[:1]), trivial_features(images[1:])])
    assert (whole == parts).all()
    pairs = ((pictures(50, 0), pictures(50, 1)), (pictures(50, 2), pictures(50, 3)))
    assert accuracies(*pairs) == accuracies(*pairs)


@pytest.mark.parametrize("size", [(8, 8), (33, 20), (1, 1)])
def test_any_size_has_features(size):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, *size)) / 255
    assert np.isfinite(trivial_features(images)).all()


def test_counts_are_those_of_the_pixels():
    images = np.zeros((1, 3, 4, 4))
    images[0, :, 0, 0] = 3 / 255
    images[0, 0, 3] = 1.0  # red: grey 85
    row = np.expm1(trivial_features(images)[0]).round(9)
    assert (row[0], row[3], row[1:16].sum()) == (11, 1, 1)
    red, green = row[32:48], row[48:64]
    assert (red[0], red[15], green[0]) == (12, 4, 16)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 8\), expected \(N, 3, H, W\)"):
        trivial_features(np.zeros((2, 1, 8, 8)))


def test_the_best_of_what_was_measured():
    results = {
        "test/accuracy": Estimate(0.9, 0.8, 1.0, 9, "wilson 95%"),
        "test/trivial/spectrum/accuracy": Estimate(0.4, 0.3, 0.5, 9, "wilson 95%"),
        "test/trivial/file_format/accuracy": Estimate(0.6, 0.5, 0.7, 9, "wilson 95%"),
    }
    assert best_trivial(results) == ("file_format", results["test/trivial/file_format/accuracy"])
    assert best_trivial({"test/accuracy": results["test/accuracy"]}) is None
