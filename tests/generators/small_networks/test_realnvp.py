"""The flow is a bijection whose log determinant and likelihood are right."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from lightning_modules.generators.small_networks.base import INNER_SIZE
from lightning_modules.generators.small_networks.realnvp import Coupling, PrincipalAxes, RealNVPGenerator

DIM = INNER_SIZE**2


def shake(module):
    """Give a module that starts as the identity weights of its own."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    return module.double()


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    mixing = torch.randn(DIM, DIM, dtype=torch.float64) / 28
    return torch.rand(2000, DIM, dtype=torch.float64) @ mixing


@pytest.fixture(scope="module")
def flow(images):
    flow = shake(RealNVPGenerator(leading=6, couplings=3, hidden=8, temperature=1.0))
    flow.principal_axes.fit(images)
    return flow.eval()


def test_coupling_is_inverted_and_its_determinant_is_that_of_the_jacobian():
    coupling = shake(Coupling(6, hidden=5, seed=3))
    x = torch.randn(4, 6, dtype=torch.float64)
    y, log_det = coupling(x)
    torch.testing.assert_close(coupling.inverse(y), x)
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda row: coupling(row[None])[0][0], x[i])
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian).logabsdet)


def test_whole_flow_is_inverted_both_ways(flow, images):
    x = images[:5].view(-1, 1, 28, 28)
    z, _ = flow.encode(x)
    torch.testing.assert_close(flow.decode(z), x)
    latents = flow.sample_latents(5, seed=0).double()
    torch.testing.assert_close(flow.encode(flow.decode(latents))[0], latents)


def test_log_determinant_of_the_whole_flow_is_that_of_its_jacobian(flow, images):
    x = images[:1].view(-1, 1, 28, 28)
    jacobian = torch.autograd.functional.jacobian(lambda image: flow.encode(image)[0], x, vectorize=True).view(DIM, DIM)
    torch.testing.assert_close(flow.encode(x)[1][0], torch.linalg.slogdet(jacobian).logabsdet)


def test_without_couplings_the_likelihood_is_that_of_the_fitted_gaussian(images):
    flow = RealNVPGenerator(leading=4, couplings=1, hidden=4).double()
    flow.principal_axes.fit(images)  # untrained conditionals are the identity
    reference = MultivariateNormal(images.mean(0), torch.cov(images.T))
    found = flow.log_likelihood(images[:20].view(-1, 1, 28, 28))
    torch.testing.assert_close(found, reference.log_prob(images[:20]), rtol=1e-6, atol=1e-3)


def test_axes_whiten_and_are_sorted(images):
    axes = PrincipalAxes(DIM, DIM).double()
    axes.fit(images)
    z, _ = axes(images)
    torch.testing.assert_close(torch.cov(z.T), torch.eye(DIM, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (axes.scale.diff() <= 0).all()
    torch.testing.assert_close(axes.inverse(z), images)


def test_temperature_scales_the_latents(flow):
    latents = flow.sample_latents(3, seed=0).double()
    cool = RealNVPGenerator(leading=6, couplings=3, hidden=8, temperature=0.5).double()
    cool.load_state_dict(flow.state_dict())
    torch.testing.assert_close(cool(latents), flow(latents * 0.5))


@pytest.fixture(scope="module")
def short(images):
    """A flow in colour that keeps 10 of 3,072 axes."""
    torch.manual_seed(2)
    flow = shake(RealNVPGenerator(leading=4, couplings=2, hidden=8, temperature=1.0, image_channels=3, axes=10))
    mixing = torch.randn(20, 3 * 32**2, dtype=torch.float64) / 4
    pictures = torch.rand(60, 20, dtype=torch.float64) @ mixing + 0.1 * torch.rand(60, 3 * 32**2, dtype=torch.float64)
    flow.principal_axes.fit(pictures)
    return flow.eval(), pictures


def test_a_flow_that_keeps_few_axes_is_inverted(short):
    flow, pictures = short
    x = pictures[:4].view(-1, 3, 32, 32)
    latents, _ = flow.encode(x)
    assert latents.shape == (4, 10 + 3 * 32**2) == (4, flow.latent_dim)
    torch.testing.assert_close(flow.decode(latents), x)
    drawn = flow.sample_latents(4, seed=0).double()
    images = flow.decode(drawn)
    assert images.shape == (4, 3, 32, 32)
    torch.testing.assert_close(flow.encode(images)[0][:, :10], drawn[:, :10])
    # noise along the axes is no part of the rest
    axes = flow.principal_axes.axes
    shifted = drawn.clone()
    shifted[:, 10:] += 5 * axes[:, 3]
    torch.testing.assert_close(flow.decode(shifted), images)


def test_what_the_axes_leave_has_a_temperature_of_its_own(short):
    flow, _ = short
    latents = flow.sample_latents(3, seed=0).double()
    arguments = {"leading": 4, "couplings": 2, "hidden": 8, "image_channels": 3, "axes": 10}
    for given, rest in ((None, 0.5), (0.1, 0.1)):
        cool = RealNVPGenerator(**arguments, temperature=0.5, rest_temperature=given).double()
        cool.load_state_dict(flow.state_dict())
        expected = torch.cat([0.5 * latents[:, :10], rest * latents[:, 10:]], dim=1)
        torch.testing.assert_close(cool(latents), flow.decode(expected))


def test_a_gaussian_of_few_axes_has_its_likelihood_and_its_samples_its_covariance():
    """Against torch's low-rank Gaussian: the axes that are left out have the mean of their variances."""
    torch.manual_seed(3)
    dim, kept = 12, 4
    data = torch.randn(400, dim, dtype=torch.float64) @ torch.randn(dim, dim, dtype=torch.float64)
    axes = PrincipalAxes(dim, kept).double()
    axes.fit(data)
    variance, vectors = torch.linalg.eigh(torch.cov(data.T))
    variance = torch.cat([variance[: dim - kept].mean().expand(dim - kept), variance[dim - kept :]])
    covariance = vectors @ torch.diag(variance) @ vectors.T
    z, log_det = axes(data)
    found = -0.5 * (z.square().sum(dim=1) + dim * math.log(2 * math.pi)) + log_det
    expected = MultivariateNormal(data.mean(0), covariance).log_prob(data)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    unit = torch.eye(kept + dim, dtype=torch.float64)
    linear = axes.inverse(unit) - axes.mean
    torch.testing.assert_close(linear.T @ linear, covariance, rtol=1e-6, atol=1e-9)


def test_few_images_have_the_axes_of_their_covariance():
    torch.manual_seed(4)
    dim, kept, n = 30, 3, 20  # fewer images than values
    data = torch.randn(n, dim, dtype=torch.float64) * torch.linspace(3, 0.1, dim, dtype=torch.float64)
    axes = PrincipalAxes(dim, kept).double()
    axes.fit(data)
    variance, vectors = torch.linalg.eigh(torch.cov(data.T))
    torch.testing.assert_close(axes.scale[:kept], variance[-kept:].flip(0).sqrt())
    torch.testing.assert_close(axes.scale[kept:], variance[:-kept].mean().sqrt()[None])
    projection = vectors[:, -kept:] @ vectors[:, -kept:].T
    torch.testing.assert_close(axes.axes @ axes.axes.T, projection)


@pytest.mark.parametrize("axes", [4, 4000])
def test_axes_are_more_than_the_leading_ones_and_not_more_than_there_are(axes):
    with pytest.raises(ValueError, match=f"found axes={axes}, expected more than leading=4 and at most 3072"):
        RealNVPGenerator(leading=4, couplings=1, hidden=4, image_channels=3, axes=axes)
