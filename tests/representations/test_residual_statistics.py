"""Co-occurrences of residuals by a loop in numpy, mean spectra by scipy's Welch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from lightning_modules.artifacts.embeddings.filters import channels_of, high_pass
from lightning_modules.representations.registry import Inputs, build_representation


def images(count: int = 2, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(5)).float() / 255


def seen(name: str, image: Tensor) -> Tensor:
    return build_representation(name)(Inputs(image, image))


def test_pairs_of_residuals_are_counted_by_their_class():
    image = images(1)
    found = seen("residual_cooccurrence", image)
    assert found.shape == (1, 864)
    shares = (found[0].double() ** 2 - 1e-3).view(3, 16 * 2, 9)
    torch.testing.assert_close(shares.sum(2), torch.ones(3, 32, dtype=torch.float64), atol=1e-4, rtol=0)
    luma = channels_of(image, "ycbcr")[0, 0].numpy().astype(np.float64) * 255
    first = luma[1:] - luma[:-1]  # along columns: the first residual
    for place, step in ((0, 1.0), (2, 3.0)):  # fine, coarse; vertical pairs come first
        quantised = np.clip(np.rint(first / step), -2, 2).astype(int)
        counts = Counter()
        for a, b in zip(quantised[:-1].ravel(), quantised[1:].ravel(), strict=True):
            counts[min((a, b), (b, a), (-a, -b), (-b, -a))] += 1
        expected = sorted(counts[key] / (14 * 16) for key in {min(k, k[::-1], (-k[0], -k[1]), (-k[1], -k[0]))
                          for k in ((a, b) for a in range(-2, 3) for b in range(-2, 3))})  # fmt: skip
        np.testing.assert_allclose(sorted(shares[0, place].tolist()), expected, atol=1e-5)


def test_mean_spectra_are_welchs():
    image = images(1, 32)
    found = seen("welch_spectrum", image).view(3, 9, 9).exp() - 1e-7
    residual = high_pass(channels_of(image, "ycbcr"))[0, 1].double().numpy()
    hann = scipy.signal.windows.hann(18)[1:-1]
    total = np.zeros((16, 16))
    starts = range(0, 17, 8)
    for top in starts:
        for left in starts:
            window = residual[top : top + 16, left : left + 16] * np.outer(hann, hann)
            total += np.abs(np.fft.fft2(window)) ** 2 / len(starts) ** 2
    for ky, kx in ((0, 3), (2, 5), (7, 1), (8, 8)):
        expected = (total[ky, kx] + total[-ky % 16, kx]) / 2
        assert found[1, ky, kx].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["residual_cooccurrence", "welch_spectrum", "residual_statistics"])
def test_an_image_and_its_mirror_image_look_alike_and_a_row_is_its_own(name):
    several = images(3, 32)
    found = seen(name, several)
    assert tuple(found.shape[1:]) == build_representation(name).output_shape((3, 32, 32), (3, 32, 32))
    torch.testing.assert_close(seen(name, several.flip(-1)), found, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen(name, several[1:2]), found[1:2])


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="expected 16 px or more"):
        seen("welch_spectrum", images(1, 12))
    with pytest.raises(ValueError, match="expected 5 px or more"):
        seen("residual_cooccurrence", images(1, 4))
