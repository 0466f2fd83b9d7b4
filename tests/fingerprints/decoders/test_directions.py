"""Searches along few directions: Krylov spaces against numpy and scipy, and the answers of the full Jacobian."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares as scipy_least_squares
from smooth_generator import BITS, Smooth, smooth_fingerprint

from lightning_modules.common.images import to_uint8
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.decoders.directions import krylov_directions, orthonormal
from lightning_modules.fingerprints.decoders.least_squares import DIRECTIONS, LeastSquaresDecoder
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.decoders.search_settings import LeastSquaresSettings


@pytest.fixture(scope="module")
def scene():
    generator = Smooth()
    fingerprint = smooth_fingerprint(generator, 0.3)
    keys = seeded_keys(12, BITS, seed=5)
    images = generator.synthesize(fingerprint.embed(generator.sample_latents(12, seed=2), keys))
    return generator, fingerprint, keys, to_uint8(images).float() / 255


def decoder(scene, **settings) -> LeastSquaresDecoder:
    return LeastSquaresDecoder(scene[0].synthesize, scene[1], make_loss("spectrum"), LeastSquaresSettings(**settings))


@pytest.fixture
def matrices():
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 40, 9, generator=random, dtype=torch.float64)
    matrix *= torch.linspace(3.0, 0.3, 9, dtype=torch.float64)
    return matrix, torch.randn(3, 40, generator=random, dtype=torch.float64)


def directions_of(matrix, target, count):
    def product(vectors):
        return (matrix @ vectors[:, :, None])[:, :, 0]

    def transposed(vectors):
        return (matrix.mT @ vectors[:, :, None])[:, :, 0]

    return krylov_directions(transposed(target), product, transposed, count)


def test_least_squares_in_the_whole_krylov_space_are_those_of_numpy(matrices):
    matrix, target = matrices
    along, columns = directions_of(matrix, target, 9)
    assert torch.allclose(along @ along.mT, torch.eye(9, dtype=torch.float64).expand(3, -1, -1), atol=1e-12)
    assert torch.allclose(columns, along @ matrix.mT)
    for row in range(3):
        wanted = np.linalg.lstsq(matrix[row].numpy(), target[row].numpy(), rcond=None)[0]
        within = np.linalg.lstsq(columns[row].T.numpy(), target[row].numpy(), rcond=None)[0]
        assert np.allclose(along[row].T.numpy() @ within, wanted, rtol=1e-9)


def test_in_a_part_of_it_they_are_those_of_conjugate_gradients(matrices):
    matrix, target = matrices
    along, columns = directions_of(matrix, target, 4)
    for row in range(3):
        a, b = matrix[row].numpy(), target[row].numpy()
        x, residual = np.zeros(9), a.T @ b
        direction = residual
        for _ in range(4):  # Hestenes and Stiefel, on the normal equations
            image = a.T @ (a @ direction)
            rate = residual @ residual / (direction @ image)
            x, following = x + rate * direction, residual - rate * image
            direction = following + following @ following / (residual @ residual) * direction
            residual = following
        within = np.linalg.lstsq(columns[row].T.numpy(), b, rcond=None)[0]
        assert np.allclose(along[row].T.numpy() @ within, x, rtol=1e-8)


def test_an_exhausted_space_is_filled_with_nothing(matrices):
    matrix, target = matrices
    along, columns = directions_of(matrix, target, 12)
    assert torch.equal(along[:, 9:], torch.zeros(3, 3, 9, dtype=torch.float64))
    assert torch.equal(columns[:, 9:], torch.zeros(3, 3, 40, dtype=torch.float64))
    nothing, _ = directions_of(matrix, torch.zeros_like(target), 2)
    assert not bool(nothing.any())


def test_an_orthonormal_basis_spans_what_it_is_given():
    vectors = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = orthonormal(vectors)
    assert torch.allclose(basis @ basis.mT, torch.eye(3, dtype=torch.float64).expand(2, -1, -1))
    assert torch.allclose(vectors @ basis.mT @ basis, vectors)


@pytest.mark.parametrize("directions", [4, 16])
def test_keys_are_those_of_the_full_jacobian(scene, directions):
    few, full = (decoder(scene, directions=each, batch=12).decode(scene[3]) for each in (directions, 0))
    assert torch.equal(few.bits, scene[2])
    assert float(few.loss.mean()) < 1.5 * float(full.loss.mean())
    along = [(each.latents - scene[1].mean) @ scene[1].key_axes[0].T / scene[1].sigma for each in (few, full)]
    assert torch.allclose(*along, atol=0.05)


def test_evidence_fades_with_noise_as_that_of_the_full_jacobian(scene):
    noise = 0.15 * torch.randn(scene[3].shape, generator=torch.Generator().manual_seed(0))
    noisy = (scene[3] + noise).clamp(0, 1)
    few, full = (decoder(scene, directions=each, batch=12).decode(noisy) for each in (6, 0))
    assert float((few.bits == full.bits).float().mean()) > 0.97
    ratio = few.logits.abs().median() / full.logits.abs().median()
    assert 0.8 < float(ratio) < 1.5


def test_a_linear_generator_gives_the_answer_of_scipy(scene):
    """The posterior's mode, with the noise's variance as the search has measured it last."""
    generator, fingerprint = scene[0], scene[1]
    matrix = 0.02 * torch.randn(16, 3 * 16 * 16, generator=torch.Generator().manual_seed(4))

    def synthesize(latents):
        return 0.5 + (latents @ matrix).view(-1, 3, 16, 16)

    latents = fingerprint.embed(generator.sample_latents(1, seed=3), scene[2][:1])
    noise = 0.02 * torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    image = synthesize(latents) + noise
    assert 0.0 < float(image.min()) < float(image.max()) < 1.0
    loss = make_loss("pixels", scales=1)
    settings = LeastSquaresSettings(directions=5, iterations=30, tolerance=1e-7)
    search = LeastSquaresDecoder(synthesize, fingerprint, loss, settings)
    found = search.decode(image)
    made = synthesize(found.latents)
    variance = (image - made).square().flatten(2).sum(dim=2) + 8.0 * (image - made).square().mean()
    scale = (variance / (256 + 8.0)).rsqrt()[:, :, None, None]

    def residual(values):
        values = torch.from_numpy(values).float()[None]
        error = (image - synthesize(search._latents(values))) * scale
        prior = torch.cat([values[:, :10], 2.0 * (values[:, 10:] - 0.5)], dim=1)
        return torch.cat([error.flatten(), prior.flatten()]).double().numpy()

    start = np.concatenate([np.zeros(10), np.full(6, 0.5)])
    wanted = scipy_least_squares(residual, start, diff_step=1e-2).x
    expected = search._latents(torch.from_numpy(wanted).float()[None])
    assert torch.allclose(found.latents, expected, atol=2e-3 * float(expected.abs().max()))


def test_few_directions_cost_few_syntheses_and_work_in_inference_mode(scene):
    def rows(**settings):
        run, counted = decoder(scene, iterations=3, tolerance=0.0, **settings), []
        inner = run.synthesize
        run.synthesize = lambda latents: counted.append(len(latents)) or inner(latents)
        with torch.inference_mode():
            assert torch.equal(run.decode(scene[3][:2] + 0.0).bits, scene[2][:2])
        return sum(counted)

    # a start; three spaces of 4 secants, a synthesis to go back from and at most 6 trials; three of key and confused
    assert rows(directions=4) <= 2 * (1 + 3 * (4 + 1 + 6) + 3 * (2 * BITS + 1 + 6))


def test_large_latents_take_few_directions_unless_told_otherwise(scene):
    assert decoder(scene).directions == 0
    assert decoder(scene, directions=30).directions == 16  # there are no more coordinates
    many = scene[1].other_axes.new_zeros(300, 316)

    class Large:
        other_deviation, bits = many[:, 0], 16

    assert LeastSquaresDecoder(lambda x: x, Large(), make_loss("spectrum")).directions == DIRECTIONS
    full = LeastSquaresSettings(directions=0)
    assert LeastSquaresDecoder(lambda x: x, Large(), make_loss("spectrum"), full).directions == 0
    with pytest.raises(ValueError, match="found directions -1, expected 0 for all"):
        LeastSquaresSettings(directions=-1)
