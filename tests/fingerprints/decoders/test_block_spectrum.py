"""The block spectrum: orthonormal, any size, equal to SciPy's cosine transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from lightning_modules.fingerprints.decoders.losses import make_loss

COLOURS = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])


def images(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def filled(batch: torch.Tensor) -> np.ndarray:
    """Borders continued to whole blocks."""
    height, width = batch.shape[-2:]
    return np.pad(batch.double().numpy(), ((0, 0), (0, 0), (0, -height % 8), (0, -width % 8)), mode="edge")


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 32), (20, 13), (3, 9)])
def test_coefficients_are_those_of_scipy(height, width):
    batch = images(2, height, width)
    (found,) = make_loss("spectrum").features(batch)
    opponent = np.einsum("ac,nchw->nahw", COLOURS, filled(batch))
    n, _, padded_height, padded_width = opponent.shape
    blocks = opponent.reshape(n, 3, padded_height // 8, 8, padded_width // 8, 8).transpose(0, 1, 2, 4, 3, 5)
    expected = dctn(blocks, axes=(4, 5), norm="ortho").transpose(0, 1, 4, 5, 2, 3)
    assert found.shape == (2, 192, padded_height // 8, padded_width // 8)
    np.testing.assert_allclose(found.numpy(), expected.reshape(found.shape), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (20, 13)])
def test_distance_is_that_of_pixels(height, width):
    first, second = images(3, height, width), images(3, height, width, seed=1)
    expected = np.square(filled(first) - filled(second)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(make_loss("spectrum")(first, second).numpy(), expected, rtol=1e-5)


def test_it_is_differentiable_and_follows_the_images_precision():
    batch = images(1, 12, 12).double().requires_grad_()
    loss = make_loss("spectrum")(batch, torch.zeros_like(batch))
    assert loss.dtype == torch.float64
    (slope,) = torch.autograd.grad(loss.sum(), batch)
    # pixels that are continued into the border count as often as they are repeated
    counts = torch.ones(12)
    counts[-1] = 5.0
    expected = 2.0 * batch.detach() * counts[:, None] * counts / (3 * 16 * 16)
    assert torch.allclose(slope, expected, atol=1e-6)
