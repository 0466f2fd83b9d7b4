"""Quality of pairs: formulas, SciPy's filters and Student's t as references, parts that add up to the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from torch import Tensor

from lightning_modules.metrics.image_quality import MeanOfPairs, psnr, ssim

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # of a process without images


def pairs(n: int = 5, side: int = 24, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, side // 4, side // 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    amount = noise * torch.linspace(0.2, 1.5, n)[:, None, None, None]
    return images, (images + amount * torch.randn(images.shape, generator=generator)).clamp(0.0, 1.0)


def reference_ssim(image: np.ndarray, other: np.ndarray) -> float:
    """Wang et al. 2004, equation 13: Gaussian window of 11 pixels and deviation 1.5, borders reflected."""

    def window(values: np.ndarray) -> np.ndarray:
        return scipy.ndimage.gaussian_filter(values, 1.5, radius=5, mode="mirror")

    scores = []
    for x, y in zip(image.astype(np.float64), other.astype(np.float64), strict=True):
        mean_x, mean_y = window(x), window(y)
        var_x, var_y = window(x * x) - mean_x**2, window(y * y) - mean_y**2
        covariance = window(x * y) - mean_x * mean_y
        c1, c2 = 0.01**2, 0.03**2
        score = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
        scores.append(score / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)))
    return float(np.mean(scores))


def test_psnr_is_its_formula():
    marked, unmarked = pairs()
    error = np.square(marked.double().numpy() - unmarked.double().numpy()).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(psnr(marked, unmarked).numpy(), 10.0 * np.log10(1.0 / error), rtol=1e-5)
    assert float(psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1))) == pytest.approx(20.0, abs=1e-4)


def test_psnr_of_equal_images_is_bounded():
    marked, _ = pairs()
    assert psnr(marked, marked).tolist() == pytest.approx([100.0] * len(marked))


def test_ssim_is_that_of_the_paper():
    marked, unmarked = pairs()
    expected = [reference_ssim(a, b) for a, b in zip(marked.numpy(), unmarked.numpy(), strict=True)]
    np.testing.assert_allclose(ssim(marked, unmarked).numpy(), expected, atol=2e-4)
    assert max(expected) - min(expected) > 0.1
    assert ssim(marked[:1], unmarked[:1]).shape == (1,)
    assert ssim(marked, marked).tolist() == pytest.approx([1.0] * len(marked), abs=1e-5)


def test_the_interval_is_that_of_student():
    marked, unmarked = pairs(n=7)
    metric = MeanOfPairs(confidence=0.9)
    metric.update(psnr(marked, unmarked))
    found, values = metric.estimate(), psnr(marked, unmarked).double().numpy()
    low, high = scipy.stats.t.interval(0.9, 6, loc=values.mean(), scale=scipy.stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high), rel=1e-9)
    assert found.n == 7
    assert found.interval == "student t 90%"
    assert found.details["std"] == pytest.approx(values.std(ddof=1), rel=1e-9)


@pytest.mark.parametrize("score", [psnr, ssim])
def test_two_halves_merged_are_the_whole(score):
    marked, unmarked = pairs(n=9)
    whole, first, second = (MeanOfPairs() for _ in range(3))
    whole.update(score(marked, unmarked))
    first.update(score(marked[:4], unmarked[:4]))
    second.update(score(marked[4:], unmarked[4:]))
    first.merge_state(second)
    merged, expected = first.estimate(), whole.estimate()
    assert (merged.value, merged.low, merged.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert merged.n == 9


def test_few_pairs_have_no_interval():
    marked, unmarked = pairs(n=2)
    metric = MeanOfPairs()
    empty = metric.estimate()
    assert math.isnan(empty.value)
    assert (empty.low, empty.high, empty.n) == (None, None, 0)
    metric.update(psnr(marked[:1], unmarked[:1]))
    single = metric.estimate()
    assert single.value == pytest.approx(float(psnr(marked, unmarked)[0]))
    assert (single.low, single.high, single.n, single.interval) == (None, None, 1, "none")


def test_a_reset_forgets():
    marked, unmarked = pairs()
    metric = MeanOfPairs()
    metric.update(psnr(marked, unmarked))
    metric.reset()
    metric.update(psnr(marked[:2], unmarked[:2]))
    assert metric.estimate().n == 2
    assert metric.estimate().value == pytest.approx(float(psnr(marked[:2], unmarked[:2]).mean()))
