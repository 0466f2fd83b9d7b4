"""The StyleGAN2 generator: latents, styles, noise modes, truncation, gradients, arguments."""

from __future__ import annotations

import pytest
import torch
from scipy.signal import upfirdn

from lightning_modules.generators.protocol import Generator
from lightning_modules.generators.stylegan2 import StyleGAN2Generator, config_f_channels
from lightning_modules.generators.stylegan2.discriminator import minibatch_deviation
from lightning_modules.generators.stylegan2.layers import blur, normalised_filter, upsample
from lightning_modules.generators.stylegan2.networks import noise_maps


@pytest.fixture
def generator() -> StyleGAN2Generator:
    torch.manual_seed(0)
    network = StyleGAN2Generator(16, z_dim=12, w_dim=10, mapping_layers=2, channels=[8, 8, 6])
    for conv in network.synthesis.convs:
        conv.noise_strength.data.fill_(0.5)
    network.mapping.mean.normal_()
    return network.freeze()


def test_it_is_a_generator_of_the_protocol(generator: StyleGAN2Generator) -> None:
    assert isinstance(generator, Generator)
    latents = generator.sample_latents(5, seed=3)
    assert latents.shape == (5, 10)
    assert generator.synthesize(latents).shape == (5, 3, 16, 16)
    assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_a_latent_depends_on_seed_and_index_alone(generator: StyleGAN2Generator) -> None:
    together = generator.sample_latents(6, seed=3)
    assert torch.allclose(generator.sample_latents(2, seed=3, start=4), together[4:], atol=1e-6)
    assert not torch.allclose(generator.sample_latents(6, seed=4), together)


def test_w_plus_takes_a_style_for_each_layer(generator: StyleGAN2Generator) -> None:
    w = generator.sample_latents(2, seed=0)
    plus = w[:, None].repeat(1, generator.synthesis.styles, 1)
    assert torch.allclose(generator.synthesize(w), generator.synthesize(plus), atol=1e-5)
    for style in range(generator.synthesis.styles):
        changed = plus.clone()
        changed[:, style] += 1.0
        assert not torch.allclose(generator.synthesize(changed), generator.synthesize(plus))
    with pytest.raises(ValueError, match=r"found latents of shape \(2, 3, 10\), expected \(n, 10\) in W or"):
        generator.synthesize(plus[:, :3])


def test_gradients_reach_the_styles_and_nothing_else(generator: StyleGAN2Generator) -> None:
    generator.double()
    w = generator.sample_latents(1, seed=0).double()[:, None].repeat(1, generator.synthesis.styles, 1)
    w.requires_grad_(True)
    torch.autograd.gradcheck(lambda w: generator.synthesize(w)[:, :, ::8, ::8], w)


def test_noise_modes(generator: StyleGAN2Generator) -> None:
    w = generator.sample_latents(1, seed=0)
    images = {mode: generator.synthesize(w, mode) for mode in ("fixed(1)", "fixed(2)", "buffers", "none")}
    for mode, image in images.items():
        assert torch.equal(generator.synthesize(w, mode), image), mode
        assert all(other == mode or not torch.allclose(image, images[other]) for other in images)
    assert not torch.equal(generator.synthesize(w, "random"), generator.synthesize(w, "random"))
    assert torch.equal(generator.synthesize(w, generator.synthesis.noise_buffers), images["buffers"])
    assert torch.equal(generator.configure(noise="fixed(2)").synthesize(w), images["fixed(2)"])
    assert generator.reproducible
    assert not generator.configure(noise="random").reproducible


def test_fixed_noise_is_shared_by_all_images_and_standard_normal(generator: StyleGAN2Generator) -> None:
    w = generator.sample_latents(1, seed=0).repeat(3, 1)
    images = generator.synthesize(w, "fixed(1)")
    assert torch.allclose(images[0], images[2], atol=1e-6)
    wide = [torch.zeros(1, 1, 128, 128), torch.zeros(1, 1, 128, 128)]
    first, second = noise_maps("fixed(5)", wide, n=3)
    assert first is not None
    assert second is not None
    assert abs(float(first.mean())) < 0.05
    assert abs(float(first.std()) - 1.0) < 0.05
    assert abs(float((first * second).mean())) < 0.05


def test_truncation_draws_towards_the_mean(generator: StyleGAN2Generator) -> None:
    w = generator.sample_latents(4, seed=0)
    mean = generator.mapping.mean
    half = generator.configure(truncation=0.5).sample_latents(4, seed=0)
    assert torch.allclose(half, mean + 0.5 * (w - mean), atol=1e-6)
    plus = generator.truncate(w, 0.5, cutoff=2)
    assert plus.shape == (4, generator.synthesis.styles, 10)
    assert torch.allclose(plus[:, 1], half, atol=1e-6)
    assert torch.equal(plus[:, 2], w)


def test_grey_images_come_out_as_rgb() -> None:
    network = StyleGAN2Generator(8, 4, 4, 1, [4, 4], image_channels=1).freeze()
    images = network.synthesize(network.sample_latents(2, seed=0))
    assert images.shape == (2, 3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])


@pytest.mark.parametrize("size", [4, 8, 1024])
def test_every_size_of_the_paper_is_made(size: int) -> None:
    network = StyleGAN2Generator(size, 4, 4, 1, config_f_channels(size, base=1024, maximum=4)).freeze()
    assert network.synthesize(network.sample_latents(1, seed=0)).shape == (1, 3, size, size)


def test_config_f_has_the_channels_of_the_paper() -> None:
    assert config_f_channels(1024) == [512, 512, 512, 512, 512, 256, 128, 64, 32]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 48}, r"found image size 48, expected a power of two in 4 \.\. 1024"),
        ({"image_size": 16, "channels": [8, 8]}, r"found 2 channel numbers for 16 px, expected 3"),
        ({"image_size": 16, "image_channels": 4}, "found 4 image channels, expected 3"),
        ({"image_size": 16, "noise": "fixed"}, r"found noise 'fixed', expected 'fixed\(SEED\)'"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StyleGAN2Generator(**({"z_dim": 4, "w_dim": 4} | arguments))


@pytest.mark.parametrize("value", ["nan", -1, "abc", 7, None])
def test_a_truncation_that_makes_no_images_is_refused(generator: StyleGAN2Generator, value: object) -> None:
    with pytest.raises(ValueError, match=r"found truncation .*, expected a number from 0"):
        generator.configure(truncation=value)


def test_an_option_mistyped_is_answered_with_the_nearest(generator: StyleGAN2Generator) -> None:
    with pytest.raises(ValueError, match=r"found option 'truncaton' .* did you mean truncation"):
        generator.configure(truncaton=0.5)


def test_unknown_options_are_refused(generator: StyleGAN2Generator) -> None:
    with pytest.raises(ValueError, match="found option 'psi' for StyleGAN2, expected noise or truncation"):
        generator.configure(psi=0.5)


@pytest.mark.parametrize("taps", [[1, 3, 3, 1], [1, 2, 1], [1, 4, 6, 4, 1]])
def test_resampling_equals_scipy(taps: list[int]) -> None:
    kernel = normalised_filter(taps)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    along_rows = upfirdn(kernel.numpy() * 2, x.numpy(), up=2, axis=2)
    both = torch.from_numpy(upfirdn(kernel.numpy() * 2, along_rows, up=2, axis=3))
    before = len(taps) - 1 - ((len(taps) - 1) // 2 + 1)  # what the full convolution has more at its beginning
    result = upsample(x, kernel)
    assert result.shape == (2, 3, 12, 12)
    size = min(12, both.shape[2] - before)
    assert torch.allclose(
        result[:, :, :size, :size], both[:, :, before : before + size, before : before + size], atol=1e-5
    )
    assert torch.allclose(
        blur(x, kernel, (len(taps) - 1, len(taps) - 1), gain=4.0),
        torch.from_numpy(upfirdn(kernel.numpy() * 2, upfirdn(kernel.numpy() * 2, x.numpy(), axis=2), axis=3)),
        atol=1e-5,
    )


def test_minibatch_deviation_is_the_deviation_within_groups() -> None:
    x = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    result = minibatch_deviation(x, group=4)
    assert result.shape == (8, 3, 3, 3)
    members = x[[1, 3, 5, 7]].reshape(4, -1)  # images of one group lie n / group apart
    expected = (members.var(dim=0, correction=0) + 1e-8).sqrt().mean()
    assert torch.allclose(result[3, 2], expected.expand(3, 3))
    assert minibatch_deviation(x[:1]).shape == (1, 3, 3, 3)
