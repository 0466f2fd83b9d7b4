"""Parts of the networks against independent references."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from torch.distributions import Normal, kl_divergence

from lightning_modules.generators.small_networks.base import add_frame, inner_images, remove_frame
from lightning_modules.generators.small_networks.beta_vae import BetaVAEDecoder, BetaVAEEncoder, kl_to_standard_normal
from lightning_modules.generators.small_networks.dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_modules.generators.small_networks.ddpm import DDPMGenerator
from lightning_modules.generators.small_networks.wgan_gp import UpBlock, WGANGPCritic, WGANGPGenerator, gradient_penalty


def test_frame_is_added_and_removed():
    grey = torch.rand(2, 1, 28, 28)
    framed = add_frame(grey)
    assert framed.shape == (2, 3, 32, 32)
    assert torch.equal(remove_frame(framed), grey)
    assert framed.sum() == pytest.approx(3 * float(grey.sum()), rel=1e-5)  # the frame adds nothing


@pytest.mark.parametrize("network", [DCGANGenerator(8, 8), WGANGPGenerator(8, 8), BetaVAEDecoder(8, 8)])
def test_generators_map_latents_to_grey_images_in_the_unit_range(network):
    images = network.freeze()(torch.randn(3, 8) * 5)
    assert images.shape == (3, 1, 28, 28)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("network", [DCGANGenerator, WGANGPGenerator, BetaVAEDecoder])
def test_generators_in_colour_make_whole_images(network):
    generator = network(8, 8, image_channels=3).freeze()
    latents = torch.randn(3, 8) * 5
    images = generator.synthesize(latents)
    assert images.shape == (3, 3, 32, 32)
    assert torch.equal(images, generator(latents))
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert not torch.equal(images[:, 0], images[:, 1])
    assert int(torch.count_nonzero(images[:, :, 0])) > 0  # no frame
    with pytest.raises(ValueError, match=r"found image_channels=2, expected 1 \(grey, in a black frame\) or 3"):
        network(8, 8, image_channels=2)


def test_judges_and_encoder_in_colour_see_whole_images():
    images = torch.rand(3, 3, 32, 32, requires_grad=True)
    answers = [DCGANDiscriminator(8, 3)(images), WGANGPCritic(8, 3)(images), BetaVAEEncoder(5, 8, 3)(images)[0].sum(1)]
    for answer in answers:
        assert answer.shape == (3,)
        (gradient,) = torch.autograd.grad(answer.sum(), images, retain_graph=True)
        assert (gradient.abs().sum(dim=(2, 3)) > 0).all()  # of each image and each channel


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="found images of 64 x 64 px, expected 32 px"):
        inner_images(torch.rand(2, 3, 64, 64), 3)


def test_judges_and_encoder_give_give_one_answer_per_image():
    images = torch.rand(3, 1, 28, 28)
    assert DCGANDiscriminator(8)(images).shape == (3,)
    assert WGANGPCritic(8)(images).shape == (3,)
    mean, log_variance = BetaVAEEncoder(5, 8)(images)
    assert mean.shape == log_variance.shape == (3, 5)


def test_up_block_skips_by_nearest_neighbour():
    block = UpBlock(8, 8)
    torch.nn.init.zeros_(block.conv.weight)
    torch.nn.init.zeros_(block.conv.bias)
    x = torch.randn(1, 8, 3, 3)
    out = block(x)
    torch.testing.assert_close(out, block.skip(x).repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_gradient_penalty_of_a_linear_critic_is_known():
    weight = torch.randn(1, 1, 4, 4, dtype=torch.float64)

    def critic(images):
        return (images * weight).sum(dim=(1, 2, 3))

    real, fake = torch.rand(2, 5, 1, 4, 4, dtype=torch.float64)
    mix = torch.rand(5, 1, 1, 1, dtype=torch.float64)
    penalty = gradient_penalty(critic, real, fake, mix)
    torch.testing.assert_close(penalty, (weight.norm() - 1) ** 2)


def test_gradient_penalty_is_taken_between_real_and_fake():
    def critic(images):  # gradient 2x: its norm tells where it was taken
        return images.square().sum(dim=(1, 2, 3))

    real, fake = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 2.0)
    mix = torch.tensor(0.25).view(1, 1, 1, 1)
    point = 0.25 * 0.5 + 0.75 * 2.0
    assert gradient_penalty(critic, real, fake, mix).item() == pytest.approx((2 * point * 2 - 1) ** 2, rel=1e-5)


def test_kl_is_that_of_torch_distributions():
    mean, log_variance = torch.randn(2, 6, 5, dtype=torch.float64)
    reference = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros_like(mean), 1.0)).sum(dim=1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), reference)


@pytest.fixture(scope="module")
def ddpm():
    torch.manual_seed(0)
    return DDPMGenerator(channels=(8, 32), training_steps=100, sampling_steps=10).freeze()


def test_noise_levels_fall_from_signal_to_noise(ddpm):
    assert (ddpm.signal.diff() < 0).all()
    assert ddpm.signal[0] > 0.99
    assert ddpm.signal[-1] < 0.01


def test_v_target_gives_back_image_and_noise(ddpm):
    images, noise = torch.rand(4, 1, 28, 28), torch.randn(4, 1, 28, 28)
    time = torch.tensor([0, 30, 60, 99])
    noised, v = ddpm.add_noise(images, noise, time)
    alpha = ddpm.signal[time].view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    torch.testing.assert_close(alpha * noised - sigma * v, images * 2 - 1)
    torch.testing.assert_close(sigma * noised + alpha * v, noise)


def test_sampler_is_the_ddim_of_diffusers():
    torch.manual_seed(0)
    ddpm = DDPMGenerator(channels=(8, 32), training_steps=10, sampling_steps=10).freeze()
    alphas_bar = ddpm.signal.square()
    betas = 1 - alphas_bar / torch.cat([torch.ones(1), alphas_bar[:-1]])
    scheduler = DDIMScheduler(
        num_train_timesteps=10,
        trained_betas=betas.numpy(),
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="linspace",
    )
    scheduler.set_timesteps(10)
    latents = ddpm.sample_latents(2, seed=0)
    x = latents.view(2, 1, 28, 28)
    for time in scheduler.timesteps:
        x = scheduler.step(ddpm.predict(x, time.expand(2)), time, x, eta=0.0).prev_sample
    torch.testing.assert_close(ddpm(latents), (x + 1) / 2, rtol=1e-3, atol=1e-3)


def test_fewer_sampling_steps_end_near_the_same_image(ddpm):
    assert ddpm(ddpm.sample_latents(1, seed=0)).shape == (1, 1, 28, 28)
    fine = DDPMGenerator(channels=(8, 32), training_steps=100, sampling_steps=50).freeze()
    fine.load_state_dict(ddpm.state_dict())
    latents = ddpm.sample_latents(2, seed=0)
    near = (fine(latents) - ddpm(latents)).abs().mean()
    far = (ddpm(latents)[0] - ddpm(latents)[1]).abs().mean()
    assert near < 0.2 * far  # both follow the same trajectory
