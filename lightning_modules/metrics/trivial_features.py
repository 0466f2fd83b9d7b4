"""What trivial features of the pixels reach: the accuracy that needs no look at what an image shows.

Generators leave noise in a black ground, shift a colour or lack high frequencies. A network that learns such a thing
scores well and knows nothing of the picture, so its accuracy belongs beside that of logistic regression on these
features, fitted on training images and scored on test images:

| feature | numbers | what it is |
|---|---|---|
| `extreme_values` | 32 | ln(1 + count) of the 16 darkest and the 16 brightest grey values |
| `colour_histogram` | 48 | ln(1 + count) of 16 equal steps of each channel |
| `spectrum` | 17 | mean ln power of the grey image in 16 rings of frequency up to Nyquist's, and in the corners |
| `together` | 97 | all of them |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from lightning_modules.metrics.attribution import balanced_accuracy
from lightning_modules.metrics.intervals import Estimate

MOST_PER_SOURCE = 500
"""Images of each source, of the training and of the test split each, where they are small."""
TRIVIAL_FEATURES = {
    "extreme_values": "counts of the 16 darkest and 16 brightest grey values",
    "colour_histogram": "colour histogram, 16 steps a channel",
    "spectrum": "mean spectrum, 17 rings",
    "together": "extreme grey values, colour histogram and mean spectrum together",
}
_EXTREMES, _STEPS, _RINGS = 16, 16, 16
_COLUMNS = {
    "extreme_values": slice(0, 2 * _EXTREMES),
    "colour_histogram": slice(2 * _EXTREMES, -_RINGS - 1),
    "spectrum": slice(-_RINGS - 1, None),
    "together": slice(None),
}
_FLOOR = 1e-8  # of the power; that of rounding to 8 bits is 1e-6
_ITERATIONS = 500

Features = NDArray[np.float64]


def trivial_features(images: NDArray[np.floating]) -> Features:
    """The features of images `(N, 3, H, W)` in [0, 1], multiples of 1/255: float64 `(N, 97)`, as the module's table.

    A row depends on its image alone.

    Raises:
        ValueError: another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"found images {images.shape}, expected (N, 3, H, W)")
    levels = np.rint(images * 255).astype(np.int64)
    grey = levels.sum(axis=1) / 3
    extremes = _histogram(np.rint(grey).astype(np.int64))
    colours = [_histogram(levels[:, channel]).reshape(len(images), _STEPS, -1).sum(axis=2) for channel in range(3)]
    counts = [extremes[:, :_EXTREMES], extremes[:, -_EXTREMES:], *colours]
    return np.concatenate([np.log1p(np.concatenate(counts, axis=1)), _mean_spectrum(grey / 255)], axis=1)


def _histogram(levels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each of 256 levels occurs in each image, `(N, H, W)` to `(N, 256)`."""
    places = levels.reshape(len(levels), -1) + 256 * np.arange(len(levels))[:, None]
    return np.bincount(places.ravel(), minlength=256 * len(levels)).reshape(len(levels), 256)


def _mean_spectrum(grey: Features) -> Features:
    """Mean ln power over rings of equal width, `(N, H, W)` to `(N, 17)`."""
    height, width = grey.shape[1:]
    power = np.abs(np.fft.rfft2(grey, norm="ortho")) ** 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])  # cycles per pixel
    ring = np.minimum((radius * 2 * _RINGS).astype(int), _RINGS)
    logs = np.log(power + _FLOOR)
    # contiguous rows, so that an image is summed up in the same order whatever its batch
    rings = [np.ascontiguousarray(logs[:, ring == each]) for each in range(_RINGS + 1)]
    return np.stack([each.mean(axis=1) if each.size else np.zeros(len(grey)) for each in rings], axis=1)


def trivial_accuracies(
    training: tuple[Features, Sequence[int]] | None,
    test: tuple[Features, Sequence[int]],
    class_names: Sequence[str],
    confidence: float = 0.95,
) -> dict[str, Estimate]:
    """What logistic regression on each of the features `(N, 97)` reaches on test images, given with their labels.

    Features are standardised; scikit-learn's defaults (L2 penalty, C = 1) with sources weighted alike, on one thread,
    so that the same images give the same digits. Without training images each half of the test images (every other one
    of a source) is scored by what was fitted on the other.

    Returns:
        By feature: mean recall over sources (balanced accuracy) with its interval, `what`, `chance` and `fitted_on`
        in the details. A feature that could not be fitted, for want of a second source, is left out.
    """
    features, labels = test[0], np.asarray(test[1])
    if training is None:
        half = _every_other(labels)
        folds = [(features[half], labels[half], ~half), (features[~half], labels[~half], half)]
        fitted_on = f"{len(labels):,} test images, each half scored by the other"
    else:
        folds = [(training[0], np.asarray(training[1]), np.ones(len(labels), dtype=bool))]
        fitted_on = f"{len(training[1]):,} training images"
    if any(len(set(known.tolist())) < 2 for _, known, _ in folds):
        return {}
    found = {}
    for name, columns in _COLUMNS.items():
        named = np.full(len(labels), -1)
        for seen, known, scored in folds:
            named[scored] = _fit_and_name(seen[:, columns], known, features[scored][:, columns])
        support = [int((labels == label).sum()) for label in range(len(class_names))]
        right = [int(((labels == label) & (named == label)).sum()) for label in range(len(class_names))]
        details = {"what": TRIVIAL_FEATURES[name], "chance": 1 / len(class_names), "fitted_on": fitted_on}
        found[name] = balanced_accuracy(right, support, class_names, confidence, **details)
    return found


def _every_other(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each image is the first, third, fifth ... of its source."""
    first = np.zeros(len(labels), dtype=bool)
    for label in set(labels.tolist()):
        first[np.flatnonzero(labels == label)[::2]] = True
    return first


def _fit_and_name(seen: Features, known: NDArray[np.int64], asked: Features) -> NDArray[np.int64]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(max_iter=_ITERATIONS, class_weight="balanced")
    with threadpool_limits(1):
        named: NDArray[np.int64] = make_pipeline(StandardScaler(), regression).fit(seen, known).predict(asked)
    return named
