"""A fixed number of conjugate-gradient steps mends an answer, at the same price for every image."""

from __future__ import annotations

import pytest
import torch
from smooth_generator import BITS, Smooth, smooth_fingerprint

from lightning_modules.common.images import eight_bit
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.decoders.base import Start, Unwatched
from lightning_modules.fingerprints.decoders.hybrid import RefinedDecoder, coordinates
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.decoders.post_processing import FILTERS
from lightning_modules.fingerprints.decoders.refinement import (
    PROBES,
    Refinement,
    RefinementSettings,
    conjugate_gradients,
)
from lightning_modules.fingerprints.decoders.search_space import search_space

IMAGES = 12


@pytest.fixture(scope="module")
def generator() -> Smooth:
    return Smooth()


@pytest.fixture(scope="module")
def scene(generator):
    """Images with keys, and what a network might say of them: near, with two of six bits wrong."""
    fingerprint, keys = smooth_fingerprint(generator, 1.0), seeded_keys(IMAGES, BITS, seed=5)
    own = generator.sample_latents(IMAGES, seed=2)
    images = eight_bit(generator.synthesize(fingerprint.embed(own, keys)))
    logits = 2.0 * (2.0 * keys.float() - 1.0)
    logits[:, :2] *= -0.25
    alpha = coordinates(own, fingerprint)
    near = alpha + 0.3 * torch.randn(alpha.shape, generator=torch.Generator().manual_seed(0))
    return fingerprint, keys, images, near, logits


def refinement(generator, fingerprint, **settings) -> Refinement:
    return Refinement(search_space(generator, fingerprint), RefinementSettings(**settings))


def systems(rows=5, width=7):
    random = torch.Generator().manual_seed(1)
    half = torch.randn(rows, width, width, generator=random, dtype=torch.float64)
    matrices = half @ half.mT + 0.1 * torch.eye(width, dtype=torch.float64)
    return matrices, torch.randn(rows, width, generator=random, dtype=torch.float64)


def test_conjugate_gradients_solve_equations():
    matrices, target = systems()
    exact = torch.linalg.solve(matrices, target)

    def product(vectors):
        return torch.einsum("nij,nj->ni", matrices, vectors)

    jacobi = 1.0 / matrices.diagonal(dim1=1, dim2=2)
    for preconditioner in (torch.ones_like(target), jacobi):
        errors = [(conjugate_gradients(product, target, preconditioner, n) - exact).norm() for n in (1, 4, 7)]
        assert float(errors[0]) > float(errors[1]) > float(errors[2])
        assert float(errors[2]) < 1e-6 * float(exact.norm())
    scaled = torch.linspace(1.0, 1e4, 7, dtype=torch.float64)
    found = conjugate_gradients(lambda vectors: scaled * vectors, target, 1.0 / scaled, 1)
    assert torch.allclose(found, target / scaled)  # the right preconditioner needs one step


def test_rows_that_are_solved_stay_as_they_are():
    target = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    found = conjugate_gradients(lambda vectors: 2.0 * vectors, target, torch.ones(2), 50)
    assert torch.equal(found, target / 2.0)


def test_the_curvature_is_the_diagonal_of_the_mean_normal_equations(generator, scene):
    fingerprint = scene[0]
    found = refinement(generator, fingerprint).curvature()
    alpha = torch.randn(400, 10, generator=torch.Generator().manual_seed(3))
    keys = seeded_keys(400, BITS, seed=8).float()

    def shown(values):
        return generator.synthesize(fingerprint.latents(values[None, :10], values[None, 10:])).flatten()

    jacobians = torch.func.vmap(torch.func.jacrev(shown))(torch.cat([alpha, keys], dim=1))
    exact = jacobians.square().sum(dim=1).mean(dim=0)
    assert found.shape == (10 + BITS,)
    assert float((found / exact).log().abs().mean()) < 2.0 * (2.0 / PROBES) ** 0.5


def test_an_answer_is_mended(generator, scene):
    fingerprint, keys, images, alpha, logits = scene
    true = coordinates(generator.sample_latents(IMAGES, seed=2), fingerprint)
    few, many = (
        refinement(generator, fingerprint, iterations=n).refine(images, alpha, logits, torch.full((10,), 0.09))
        for n in (1, 4)
    )
    assert float(((logits > 0) == keys).float().mean()) < 0.7
    assert float((few.bits == keys).float().mean()) > 0.9
    assert torch.equal(many.bits, keys)
    assert float(many.loss.max()) < 1e-4
    assert torch.allclose(coordinates(many.latents, fingerprint), true, atol=0.1)


def test_odds_are_surer_where_images_are_cleaner(generator, scene):
    fingerprint, _, images, alpha, logits = scene
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(4))
    sizes = []
    for deviation in (0.0, 0.1, 0.3):
        seen = (images + deviation * noise).clamp(0.0, 1.0)
        sizes.append(refinement(generator, fingerprint).refine(seen, alpha, logits).logits.abs().mean())
    assert sizes[0] > sizes[1] > sizes[2]


def test_what_was_known_beforehand_holds_where_the_image_says_little(generator, scene):
    fingerprint, _, images, alpha, logits = scene
    noisy = torch.rand(images.shape, generator=torch.Generator().manual_seed(6))
    trusting, doubting = (
        refinement(generator, fingerprint).refine(noisy, alpha, logits, torch.full((10,), error))
        for error in (1e-4, 1.0)
    )
    moved = [(coordinates(each.latents, fingerprint) - alpha).square().mean().sqrt() for each in (trusting, doubting)]
    assert moved[0] < 0.01
    assert moved[1] > 10.0 * moved[0]


@pytest.mark.parametrize("name", ["blur_1", "resized_0.5"])
def test_images_are_read_behind_the_filter_that_they_met(generator, scene, name):
    fingerprint, keys, images, alpha, logits = scene
    met = FILTERS[name](images)
    reader = refinement(generator, fingerprint, iterations=4)
    behind, unaware = (reader.refine(met, alpha, logits, behind=each) for each in (FILTERS[name], None))
    right = [float((each.bits == keys).float().mean()) for each in (behind, unaware)]
    assert float(behind.loss.mean()) < float(unaware.loss.mean())
    assert right[0] >= right[1]


def test_every_image_costs_the_same_and_is_told_of(generator, scene):
    """Of each linearisation and of each step a synthesis and a backward pass; a synthesis after all."""
    fingerprint, _, images, alpha, logits = scene

    class Counting(Unwatched):
        asked, done = 0, 0

        def check(self):
            self.asked += 1

        def advance(self, images):
            self.done += images

    def cost(images, alpha, logits, **settings):
        watch = Counting()
        reader = Refinement(search_space(generator, fingerprint), RefinementSettings(**settings), watch)
        reader.curvature()
        watch.asked = 0
        reader.refine(images, alpha, logits)
        assert watch.done == len(images)
        return watch.asked

    easy, hard = cost(images, alpha, logits), cost(torch.rand_like(images), alpha, logits)
    assert easy == hard == 2 * (1 + 1 + 2 * 5) + 1
    assert cost(images, alpha, logits, batch=5) == 3 * easy


def test_answers_do_not_depend_on_the_batch(generator, scene):
    fingerprint, _, images, alpha, logits = scene
    whole, parts = (refinement(generator, fingerprint, batch=n).refine(images, alpha, logits) for n in (64, 5))
    assert torch.allclose(whole.logits, parts.logits, atol=1e-3)


def test_it_works_in_inference_mode(generator, scene):
    fingerprint, _, images, alpha, logits = scene
    plain = refinement(generator, fingerprint).refine(images, alpha, logits)
    with torch.inference_mode():  # as tensors that are moved to a device there
        reader = refinement(generator, fingerprint.clone())
        found = reader.refine(images.clone(), alpha.clone(), logits.clone())
    assert torch.equal(found.logits, plain.logits)


def test_mixed_precision_ends_where_images_are_compared(generator, scene):
    fingerprint, _, images, alpha, logits = scene
    space = search_space(generator, fingerprint)
    start = PutBack(logits, alpha, images)
    decoder = RefinedDecoder(start, Refinement(space), space, generator, fingerprint, make_loss("pixels"))
    plain = decoder.decode(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert generator.synthesize(fingerprint.mean[None]).dtype == torch.bfloat16
        found = decoder.decode(images)
    assert torch.equal(found.logits, plain.logits)
    assert torch.equal(found.loss, plain.loss)


def test_no_images_have_no_answers(generator, scene):
    fingerprint, _, images, alpha, logits = scene
    found = refinement(generator, fingerprint).refine(images[:0], alpha[:0], logits[:0])
    assert found.logits.shape == (0, BITS)


class PutBack:
    """Reads each image in three ways."""

    def __init__(self, logits, alpha, images):
        readings = torch.stack([0.1 * logits.flip(1), logits, -logits], dim=1)
        self.start = Start(logits, alpha, images, readings)

    def starts(self, images):
        return self.start


def test_the_answer_stands_before_the_network_s_readings(generator, scene):
    fingerprint, keys, images, alpha, logits = scene
    start = PutBack(logits, alpha, images)
    space = search_space(generator, fingerprint)
    search = Refinement(space, RefinementSettings(iterations=4))
    trust = torch.full((10,), 0.09)
    decoder = RefinedDecoder(start, search, space, generator, fingerprint, make_loss("pixels"), trust)
    found = decoder.decode(images)
    assert torch.equal(found.bits, keys)
    assert torch.equal(found.evidence, torch.cat([found.logits[:, None], start.start.readings], dim=1))
    assert torch.equal(found.network_logits, torch.stack([start.start.readings[:, 0], logits], dim=1))
