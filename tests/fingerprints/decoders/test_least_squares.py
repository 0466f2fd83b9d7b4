"""Least squares: keys found in a few steps, better than descent at equal work, honest evidence, independent images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from smooth_generator import BITS, Smooth, smooth_fingerprint

from lightning_modules.common.images import to_uint8
from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.decoders.inversion import InversionDecoder, InversionSettings
from lightning_modules.fingerprints.decoders.least_squares import LeastSquaresDecoder, _correct
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.decoders.search_settings import LeastSquaresSettings


@pytest.fixture(scope="module")
def scene():
    generator = Smooth()
    fingerprint = smooth_fingerprint(generator, 0.3)
    keys = seeded_keys(12, BITS, seed=5)
    images = generator.synthesize(fingerprint.embed(generator.sample_latents(12, seed=2), keys))
    return generator, fingerprint, keys, to_uint8(images).float() / 255


def decoder(scene, loss="spectrum", **settings) -> LeastSquaresDecoder:
    loss = make_loss("pixels", scales=1) if loss == "pixels" else make_loss(loss)
    return LeastSquaresDecoder(scene[0].synthesize, scene[1], loss, LeastSquaresSettings(**settings))


def as_made(images):
    return images


def test_keys_are_found_from_the_mean_latent_in_a_few_steps(scene):
    _, fingerprint, keys, images = scene
    estimate = decoder(scene).decode(images)
    assert torch.equal(estimate.bits, keys)
    assert float(estimate.loss.max()) < 1e-4
    along = (estimate.latents - fingerprint.mean) @ fingerprint.key_axes[0].T / fingerprint.sigma
    assert torch.allclose(along, keys.float(), atol=0.1)


def test_it_is_far_ahead_of_descent_at_more_work(scene):
    """Twelve Jacobians of 16 columns cost about as much as a hundred updates; descent gets two hundred."""
    generator, fingerprint, keys, images = scene
    settings = InversionSettings(starts=1, steps=200, whitened=True, learning_rate=0.1, decay=0.01, penalty=0.0)
    descent = InversionDecoder(generator.synthesize, fingerprint, make_loss("pixels"), settings).decode(images)
    exact = decoder(scene).decode(images)
    assert float((exact.bits == keys).float().mean()) >= float((descent.bits == keys).float().mean())
    assert float(exact.loss.mean()) < 0.5 * float(
        make_loss("pixels")(generator.synthesize(descent.latents), images).mean()
    )


def test_the_jacobian_is_that_of_finite_differences(scene):
    run = decoder(scene)
    values = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)) * 0.3
    jacobian = run._jacobian(values, run._made(values, as_made), as_made)
    for column in (0, 9, 10, 15):
        step = torch.zeros_like(values)
        step[:, column] = 1e-2
        slope = ((run._made(values + step, as_made) - run._made(values - step, as_made)) / 2e-2).flatten(1)
        assert torch.allclose(jacobian[:, column], slope, atol=2e-3 + 0.05 * float(slope.abs().max()))


def test_broydens_correction_meets_the_last_step_and_keeps_the_products():
    random = torch.Generator().manual_seed(0)
    jacobian = torch.randn(3, 5, 40, generator=random, dtype=torch.float64)
    step = torch.randn(3, 5, generator=random, dtype=torch.float64)
    change = torch.randn(3, 40, generator=random, dtype=torch.float64)
    rest = torch.diag_embed(torch.rand(3, 5, generator=random, dtype=torch.float64))
    precision, before = jacobian @ jacobian.mT + rest, jacobian.clone()
    surprise = change - (before.mT @ step[:, :, None])[:, :, 0]
    _correct(jacobian, precision, surprise, step / step.square().sum(dim=1, keepdim=True))
    assert torch.allclose((jacobian.mT @ step[:, :, None])[:, :, 0], change)  # the secant equation
    across = torch.randn(3, 5, 1, generator=random, dtype=torch.float64)
    across -= step[:, :, None] * (step[:, None] @ across) / step.square().sum(dim=1)[:, None, None]
    assert torch.allclose(jacobian.mT @ across, before.mT @ across)  # no other direction changes
    assert torch.allclose(precision, jacobian @ jacobian.mT + rest)


def test_an_image_whose_bits_are_sure_is_done(scene):
    """With a low bar after two Jacobians, with one that no bit reaches as if there were none."""

    def searched(**settings):
        run, counted = decoder(scene, tolerance=0.0, iterations=5, **settings), []
        computed = run._jacobian
        run._jacobian = lambda values, *rest: counted.append(len(values)) or computed(values, *rest)
        return run.decode(scene[3]), sum(counted)

    (plain, all_of_them), (early, few), (never, as_many) = (searched(stop_log_odds=odds) for odds in (0.0, 5.0, 1e9))
    assert all_of_them == as_many == 5 * len(scene[3])
    assert 2 * len(scene[3]) <= few < 0.7 * all_of_them
    assert torch.equal(early.bits, plain.bits)
    assert torch.equal(never.logits, plain.logits)


def test_centred_keys_are_found(scene):
    generator, keys = scene[0], scene[2]
    fingerprint = smooth_fingerprint(generator, 0.3, centred=True)
    images = to_uint8(generator.synthesize(fingerprint.embed(generator.sample_latents(12, seed=2), keys))).float() / 255
    assert torch.equal(decoder((generator, fingerprint)).decode(images).bits, keys)


def test_squares_add_up_to_the_loss(scene):
    run = decoder(scene)
    a, b = scene[3][:3], scene[3][3:6]
    squares = (run._features(a) - run._features(b)).square().flatten(1).mean(dim=1)
    assert torch.allclose(squares, run.loss(a, b), rtol=1e-4)
    assert torch.allclose(squares, make_loss("pixels", scales=1)(a, b), rtol=1e-4)


def test_evidence_fades_with_noise(scene):
    images, keys = scene[3], scene[2]
    noisy = (images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    clean, damaged = decoder(scene).decode(images), decoder(scene).decode(noisy)
    assert float(clean.logits.abs().mean()) > 10 * float(damaged.logits.abs().mean())
    wrong = damaged.bits != keys
    if bool(wrong.any()):
        assert float(damaged.logits[wrong].abs().mean()) < float(damaged.logits[~wrong].abs().mean())


def test_images_do_not_depend_on_their_company(scene):
    together, alone = decoder(scene).decode(scene[3]), decoder(scene, batch=1).decode(scene[3][4:5])
    assert torch.allclose(together.latents[4:5], alone.latents, atol=1e-2)
    with torch.inference_mode():
        assert torch.equal(decoder(scene).decode(scene[3] + 0.0).bits, together.bits)


def test_a_start_is_used(scene):
    _, fingerprint, keys, images = scene
    one = decoder(scene, iterations=1)
    found = decoder(scene).decode(images)
    alpha = ((found.latents - fingerprint.mean) @ fingerprint.other_axes.T) / fingerprint.other_deviation
    near = one.refine(images, alpha, keys.float() * 20 - 10)
    assert float(near.loss.mean()) < 0.2 * float(one.decode(images).loss.mean())


def test_noisy_company_changes_nothing(scene):
    """Weights, damping and the end of the search are each image's own."""
    noise = 0.4 * torch.randn(scene[3].shape, generator=torch.Generator().manual_seed(0))
    mixed = torch.where(torch.arange(12)[:, None, None, None] % 2 == 0, scene[3], (scene[3] + noise).clamp(0, 1))
    together = decoder(scene, batch=12).decode(mixed)
    for number in (0, 1, 6, 7):
        alone = decoder(scene).decode(mixed[number : number + 1])
        assert torch.allclose(alone.latents, together.latents[number : number + 1], atol=1e-2)
        assert torch.equal(alone.bits, together.bits[number : number + 1])


def test_what_is_known_beforehand_pulls_where_the_image_is_noisy(scene):
    generator, fingerprint, _, _ = scene
    keys = seeded_keys(24, BITS, seed=5)
    own = generator.sample_latents(24, seed=2)
    clean = generator.synthesize(fingerprint.embed(own, keys))
    random = torch.Generator().manual_seed(0)
    noisy = clean + 0.5 * torch.randn(clean.shape, generator=random)
    alpha = (own - fingerprint.mean) @ fingerprint.other_axes.T / fingerprint.other_deviation
    start = alpha + 0.3 * torch.randn(alpha.shape, generator=random)
    logits = 4.0 * keys.float() - 2.0

    def found(images, variance):
        error = None if variance is None else torch.full((alpha.shape[1],), variance)
        estimate = decoder(scene).refine(images, start, logits, error)
        at = (estimate.latents - fingerprint.mean) @ fingerprint.other_axes.T / fingerprint.other_deviation
        return estimate, at

    (free, at_free), (held, at_held), (fair, at_fair) = (found(noisy, variance) for variance in (None, 1e-4, 0.09))
    away = [float((at - start).square().mean().sqrt()) for at in (at_held, at_fair, at_free)]
    assert away[0] < 0.01 < 0.15 < away[1] < away[2]
    errors = [float((at - alpha).square().mean().sqrt()) for at in (at_fair, at_free, at_held)]
    assert errors[0] < 0.8 * min(errors[1:])  # the honest variance is the best
    right = [float((estimate.bits == keys).float().mean()) for estimate in (free, fair, held)]
    assert right[0] < 0.85
    assert min(right[1:]) > 0.95
    _, at_clean = found(clean, 0.09)
    assert float((at_clean - alpha).square().mean().sqrt()) < 0.05  # a clean image speaks for itself


def test_channels_that_are_noisy_count_less(scene):
    """Noise in 7 of 192 coefficients of the blocks, none in the rest."""
    generator, fingerprint, _, _ = scene
    keys = seeded_keys(24, BITS, seed=5)
    images = generator.synthesize(fingerprint.embed(generator.sample_latents(24, seed=2), keys))
    coefficients = torch.zeros(24, 192, 2, 2)
    noise = 2.0 * torch.randn(24, 7, 2, 2, generator=torch.Generator().manual_seed(0))
    coefficients[:, [0, 1, 2, 3, 8, 9, 10]] = noise
    noisy = images + F.conv_transpose2d(coefficients, make_loss("spectrum").basis, stride=8)
    by_channel, evenly = (decoder(scene, loss).decode(noisy) for loss in ("spectrum", "pixels"))
    assert float((by_channel.bits == keys).float().mean()) > 0.97
    assert float((evenly.bits == keys).float().mean()) < 0.9


@pytest.mark.parametrize(
    "settings",
    [
        {"iterations": 0},
        {"damping": 0.0},
        {"batch": 0},
        {"tolerance": 1.0},
        {"secant": 0.0},
        {"stop_log_odds": -1.0},
        {"survivors": ((1, 2), (2, 2))},
        {"survivors": ((3, 4), (2, 1))},
        {"survivors": ((2, 0),)},
        {"survivors": ((0, 3),)},
    ],
)
def test_settings_that_cannot_be_run_are_refused(settings):
    with pytest.raises(ValueError, match="found"):
        LeastSquaresSettings(**settings)


def far(n, starts, axes, seed=0):
    """Starts far from what any image shows."""
    return 6.0 * torch.randn(n, starts, axes, generator=torch.Generator().manual_seed(seed))


def test_of_several_starts_the_one_of_least_residual_is_kept(scene):
    images = scene[3]
    run = decoder(scene, iterations=2)
    alpha = far(len(images), 3, 10)
    alone = [run.refine(images, alpha[:, start], torch.zeros(len(images), 1)) for start in range(3)]
    losses = torch.stack([estimate.loss for estimate in alone])  # (3, n)
    together = run.refine(images, alpha, torch.zeros(len(images), 1, 1))
    assert torch.allclose(together.loss, losses.amin(dim=0), rtol=1e-3)
    best = losses.argmin(dim=0)
    assert len(best.unique()) == 3  # the first start is not simply taken
    chosen = torch.stack([alone[start].latents[row] for row, start in enumerate(best.tolist())])
    assert torch.allclose(together.latents, chosen, atol=1e-3)


def test_starts_that_fall_behind_cost_no_more_jacobians(scene):
    images = scene[3][:4]
    alpha = far(4, 5, 10)

    def jacobians(**settings):
        run, counted = decoder(scene, iterations=3, tolerance=0.0, **settings), []
        inner = run._jacobian
        run._jacobian = lambda values, *rest: counted.append(len(values)) or inner(values, *rest)
        return run.refine(images, alpha, torch.zeros(4, 1, 1)), sum(counted)

    whole, all_of_them = jacobians()
    some, few = jacobians(survivors=((1, 3), (2, 1)))
    assert all_of_them == 4 * 5 * 3
    assert few == 4 * (5 + 3 + 1)
    assert bool((some.loss >= whole.loss * (1 - 1e-3)).all())
    in_parts, _ = jacobians(survivors=((1, 3), (2, 1)), batch=3)
    assert torch.allclose(in_parts.loss, some.loss, rtol=1e-2)


def test_from_the_mean_latent_a_bad_start_beside_it_changes_no_answer(scene):
    _, _, keys, images = scene
    alpha = torch.cat([far(len(images), 2, 10), torch.zeros(len(images), 1, 10)], dim=1)
    estimate = decoder(scene, survivors=((2, 1),)).refine(images, alpha, torch.zeros(len(images), 1, 1))
    assert torch.equal(estimate.bits, keys)
