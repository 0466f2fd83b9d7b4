"""The key subspace: axes against numpy, layouts, embedding, the prior."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_modules.common.random_streams import seeded_keys
from lightning_modules.fingerprints.fingerprint import Fingerprint, make_fingerprint
from lightning_modules.fingerprints.layouts import LAYOUTS, check_layout, place_key
from lightning_modules.fingerprints.principal_axes import fit_principal_axes

DIM = 24


@pytest.fixture
def latents() -> torch.Tensor:
    torch.manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(DIM, DIM)).Q * torch.linspace(3.0, 0.1, DIM)
    return torch.randn(500, DIM) @ mixing.T + 50.0


def made(latents: torch.Tensor, layout: str, bits: int = 4, sigma: float = 2.0, **options) -> Fingerprint:
    placed = place_key(lambda: latents.split(64), DIM, bits, shift=3, layout=layout, channels=3)
    return make_fingerprint(placed, sigma, 3, layout, "hash", "g.pt", **options)


def test_axes_are_those_of_the_covariance_matrix(latents):
    fitted = fit_principal_axes(latents.split(7))
    values = latents.double().numpy()
    covariance = np.cov(values.T)
    assert np.allclose(fitted.mean, values.mean(axis=0), atol=1e-9)
    assert np.allclose(fitted.deviation**2, np.linalg.eigvalsh(covariance)[::-1], rtol=1e-9)
    assert np.allclose(fitted.axes @ fitted.axes.T, np.eye(DIM), atol=1e-12)
    assert np.allclose(fitted.axes @ covariance @ fitted.axes.T, np.diag(fitted.deviation**2), atol=1e-9)


def test_batches_do_not_change_the_axes(latents):
    whole, parts = fit_principal_axes([latents]), fit_principal_axes(latents.split(13))
    assert torch.allclose(whole.axes, parts.axes, atol=1e-9)
    assert torch.allclose(whole.deviation, parts.deviation, atol=1e-9)
    assert whole.count == parts.count == 500


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "found 0 latents, expected at least 2"),
        ([torch.zeros(1, 3)], "found 1 latents"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], r"found a batch of shape \(2, 4\)"),
        ([torch.full((2, 3), torch.nan)], "not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        fit_principal_axes(batches)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_axes_together_are_orthonormal_and_complete(latents, layout):
    fingerprint = made(latents, layout)
    axes = torch.cat([fingerprint.key_axes.flatten(0, 1), fingerprint.other_axes])
    assert axes.shape == (DIM, DIM)
    assert torch.allclose(axes @ axes.T, torch.eye(DIM), atol=1e-5)
    assert (fingerprint.other_deviation.diff() <= 1e-6).all()


def test_flat_and_repeated_take_the_axes_from_shift_on(latents):
    fitted = fit_principal_axes([latents])
    flat, repeated = made(latents, "flat"), made(latents, "repeated")
    assert torch.allclose(flat.key_axes[0], fitted.axes[3:7].float(), atol=1e-5)
    assert repeated.key_axes.shape == (3, 4, DIM)
    # bit j lies on three consecutive axes
    assert torch.allclose(repeated.key_axes[:, 1], fitted.axes[6:9].float(), atol=1e-5)
    assert torch.allclose(repeated.key_deviation[:, 1], fitted.deviation[6:9].float(), atol=1e-5)


def test_per_channel_puts_the_same_bit_in_every_channel(latents):
    fingerprint = made(latents, "per_channel")
    assert fingerprint.key_axes.shape == (3, 4, DIM)
    for channel in range(3):
        inside = fingerprint.key_axes[channel, :, 8 * channel : 8 * channel + 8]
        assert torch.allclose(inside.norm(dim=1), torch.ones(4), atol=1e-5)
        expected = fit_principal_axes([latents[:, 8 * channel : 8 * channel + 8]]).axes[3:7].float()
        assert torch.allclose(inside, expected, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_embedding_sets_the_key_and_nothing_else(latents, layout):
    fingerprint = made(latents, layout)
    keys = seeded_keys(500, 4, seed=1)
    marked = fingerprint.embed(latents, keys)
    along = (marked - fingerprint.mean) @ fingerprint.key_axes.flatten(0, 1).T
    copies = fingerprint.key_axes.shape[0]
    assert torch.allclose(along.view(500, copies, 4), 2.0 * keys.float()[:, None].expand(-1, copies, -1), atol=1e-3)
    assert torch.allclose(marked @ fingerprint.other_axes.T, latents @ fingerprint.other_axes.T, atol=1e-3)
    none = fingerprint.embed(latents, torch.zeros(1, 4))
    assert torch.allclose(none, fingerprint.without_key(latents), atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_centred_keys_lie_on_both_sides_of_the_mean_at_half_the_squared_distance(latents, layout):
    beside, centred = made(latents, layout), made(latents, layout, centred=True)
    keys = seeded_keys(500, 4, seed=1)
    marked = centred.embed(latents, keys)
    copies = centred.key_axes.shape[0]
    along = ((marked - centred.mean) @ centred.key_axes.flatten(0, 1).T).view(500, copies, 4)
    assert torch.allclose(along, 2.0 * keys.float()[:, None].expand_as(along) - 1.0, atol=1e-3)
    opposite = centred.embed(latents, ~keys)
    assert torch.allclose((marked + opposite) / 2, centred.without_key(latents), atol=1e-4)
    moved = [(f.embed(latents, keys) - f.without_key(latents)).square().sum(dim=1).mean() for f in (centred, beside)]
    assert float(moved[0] / moved[1]) == pytest.approx(0.5, abs=0.05)
    # two keys are as far apart as without centring
    apart = [(f.embed(latents, keys) - f.embed(latents, ~keys)).norm(dim=1) for f in (centred, beside)]
    assert torch.allclose(*apart, rtol=1e-3)


def test_embedding_is_differentiable_in_latent_and_key(latents):
    fingerprint = made(latents, "flat")
    w = latents[:2].clone().requires_grad_(True)
    phi = torch.full((2, 4), 0.5, requires_grad=True)
    fingerprint.embed(w, phi).square().sum().backward()
    assert float(phi.grad.abs().min()) > 0
    assert torch.allclose(w.grad @ fingerprint.key_axes[0].T, torch.zeros(2, 4), atol=1e-2)


@pytest.mark.parametrize("kept", [2048, 6])
def test_the_gaussian_prior_has_the_deviations_of_the_latents(latents, kept):
    fingerprint = made(latents, "flat", latent_prior="gaussian", kept=kept)
    drawn = fingerprint.gaussian_latents(torch.randn(20_000, DIM)) - fingerprint.mean
    assert float((drawn @ fingerprint.key_axes[0].T).abs().max()) < 1e-3
    along = (drawn @ fingerprint.other_axes.T).std(dim=0)
    assert torch.allclose(along, fingerprint.other_deviation, rtol=0.05)
    whole = made(latents, "flat")
    assert float(drawn.square().sum(dim=1).mean()) == pytest.approx(
        float(whole.other_deviation.square().sum()), rel=0.05
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((24, 4, 21, "flat"), "needs axes 21 to 25; expected at least 1 bit within 24 axes"),
        ((24, 4, 13, "repeated"), "needs axes 13 to 25"),
        ((24, 4, 5, "per_channel", 3), "needs axes 5 to 9; expected at least 1 bit within 8 axes"),
        ((24, 0, 0, "flat"), "found 0 bits"),
        ((24, 24, 0, "flat"), "takes all 24 axes"),
        ((24, 4, 0, "diagonal"), "found layout 'diagonal', expected flat, repeated, per_channel"),
        ((25, 4, 0, "per_channel", 3), "found 25 dimensions in 3 channels"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_layout(*arguments)


def test_a_negative_shift_counts_from_the_axis_of_least_variance():
    assert check_layout(24, 4, -4, "flat") == 20


def test_strength_and_prior_are_checked(latents):
    with pytest.raises(ValueError, match=r"found sigma 0\.0, expected a strength above 0"):
        made(latents, "flat", sigma=0.0)
    with pytest.raises(ValueError, match="found latent prior 'uniform'"):
        made(latents, "flat", latent_prior="uniform")
    with pytest.raises(ValueError, match=r"found latents \(2, 3\) and keys \(2, 4\)"):
        made(latents, "flat").embed(torch.zeros(2, 3), torch.zeros(2, 4))


def spectrum_of_many(count: int, dim: int = 60) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randn(count, dim, generator=random) * torch.linspace(3.0, 0.5, dim) + 20.0


@pytest.mark.parametrize("count", [500, 40])
@pytest.mark.parametrize("leading", [1, 20, 39])
def test_leading_axes_are_those_of_numpy(count, leading):
    """Of enough latents and of fewer than coordinates."""
    latents = spectrum_of_many(count)
    fitted = fit_principal_axes(latents.split(17), leading)
    values = latents.double().numpy()
    centred = values - values.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    assert fitted.axes.shape == (leading, 60)
    assert np.allclose(fitted.mean, values.mean(axis=0))
    assert np.allclose(fitted.deviation, singular[:leading] / np.sqrt(count - 1))
    assert np.allclose(np.abs(np.sum(fitted.axes.numpy() * rows[:leading], axis=1)), 1.0)
    assert fitted.total_variance == pytest.approx(np.cov(values.T).trace())


def test_axes_along_which_few_latents_do_not_vary_complete_the_basis():
    fitted = fit_principal_axes([spectrum_of_many(10)])
    assert torch.allclose(fitted.axes @ fitted.axes.T, torch.eye(60, dtype=torch.float64), atol=1e-10)
    assert torch.equal(fitted.deviation[9:], torch.zeros(51, dtype=torch.float64))
    same = fit_principal_axes([torch.ones(3, 5)], 2)
    assert torch.equal(same.deviation, torch.zeros(2, dtype=torch.float64))
    assert torch.allclose(same.axes @ same.axes.T, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kept", [2, 9])
def test_a_fingerprint_of_leading_axes_is_that_of_all(latents, layout, kept):
    def of(*limits):
        placed = place_key(lambda: latents.split(64), DIM, 2, 1, layout, 3, *limits)
        return make_fingerprint(placed, 2.0, 1, layout, "hash", "g.pt", kept=kept)

    whole, some = of(), of(kept)
    assert some.other_axes.shape == whole.other_axes.shape == (kept, DIM)
    assert torch.allclose(some.key_axes, whole.key_axes, atol=1e-5)
    assert torch.allclose(some.other_axes, whole.other_axes, atol=1e-5)
    assert torch.allclose(some.key_deviation, whole.key_deviation)
    assert some.rest_deviation == pytest.approx(whole.rest_deviation, rel=1e-6)
