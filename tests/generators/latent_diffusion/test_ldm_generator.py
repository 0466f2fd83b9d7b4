"""Latents belong to (seed, index), gradients pass the quantiser, options are checked."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import DDIMScheduler
from seeded import seeded_tensor

from lightning_modules.common.random_streams import standard_normal_latents
from lightning_modules.generators.latent_diffusion import LatentDiffusionGenerator, first_stage
from lightning_modules.generators.latent_diffusion.first_stage import nearest_codes, quantise, straight_through
from lightning_modules.generators.protocol import Generator


def test_is_a_generator(generator):
    assert isinstance(generator, Generator)
    assert generator.latent_dim == 3 * 8 * 8
    latents = generator.sample_latents(2, seed=0)
    assert latents.shape == (2, 192)
    assert latents.dtype == torch.float32
    assert generator.synthesize(latents).shape == (2, 3, 16, 16)
    assert generator.sample_latents(0, seed=0).shape == (0, 192)
    assert not any(parameter.requires_grad for parameter in generator.parameters())


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_latents_belong_to_seed_and_index(generator, eta):
    generator.configure(eta=eta)
    together = generator.sample_latents(7, seed=3, start=5)
    assert torch.equal(together, generator.sample_latents(7, seed=3, start=5))
    for batch in (1, 2, 3):
        apart = generator.configure(batch=batch).sample_latents(7, seed=3, start=5)
        torch.testing.assert_close(apart, together, atol=1e-4, rtol=1e-4)
    single = torch.cat([generator.sample_latents(1, seed=3, start=i) for i in range(5, 12)])
    torch.testing.assert_close(single, together, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(generator.sample_latents(7, seed=4, start=5), together, atol=0.1)


def test_noise_of_the_steps_is_each_samples_own(generator):
    still = generator.sample_latents(3, seed=0)
    noisy = generator.configure(eta=1.0).sample_latents(3, seed=0)
    assert (noisy - still).abs().mean() > 0.1
    hardly = generator.configure(eta=1e-6).sample_latents(3, seed=0)
    torch.testing.assert_close(hardly, still, atol=1e-2, rtol=1e-2)  # the same start


def test_sampler_is_the_one_of_diffusers(generator, small_arguments):
    """A chain written out with the library's scheduler and the same noise."""
    scheduler = DDIMScheduler(**small_arguments["scheduler"])
    scheduler.set_timesteps(4)
    noise = standard_normal_latents(2, 5 * 192, seed=1).view(2, 5, 3, 8, 8)
    x = noise[:, 0]
    with torch.no_grad():
        for i, time in enumerate(scheduler.timesteps):
            output = generator.unet.model(x, time).sample
            x = scheduler.step(output, time, x, eta=0.7, variance_noise=noise[:, 1 + i]).prev_sample
    assert torch.equal(generator.configure(eta=0.7).sample_latents(2, seed=1), x.flatten(1))


def test_all_levels_can_be_steps(small_arguments):
    small_arguments["scheduler"] |= {"steps_offset": 1, "num_train_timesteps": 5}
    generator = LatentDiffusionGenerator(**small_arguments | {"steps": 5, "eta": 1.0}).freeze()
    times = []
    generator.unet.forward = lambda x, time, *_: times.append(int(time)) or torch.zeros_like(x)
    generator.sample_latents(1, seed=0)
    assert times == [4, 3, 2, 1, 0]


def test_decoding_is_scaled_and_quantised(generator):
    latents = generator.sample_latents(2, seed=0)
    vectors = (latents.view(2, 3, 8, 8) / 0.5).permute(0, 2, 3, 1).reshape(-1, 3)
    codes = generator.first_stage.codebook[torch.cdist(vectors, generator.first_stage.codebook).argmin(dim=1)]
    model = generator.first_stage.model
    with torch.no_grad():
        expected = model.decoder(model.post_quant_conv(codes.view(2, 8, 8, 3).permute(0, 3, 1, 2)))
        torch.testing.assert_close(generator.synthesize(latents), (expected + 1) / 2, atol=1e-5, rtol=1e-5)


def test_gradient_is_that_at_the_codes(generator):
    latents = generator.sample_latents(2, seed=0).requires_grad_()
    images = generator.synthesize(latents)
    cotangent = seeded_tensor("input.cotangent", images.shape)
    (found,) = torch.autograd.grad((images * cotangent).sum(), latents)

    codes, _ = quantise(latents.detach().view(2, 3, 8, 8) / 0.5, generator.first_stage.codebook)
    codes = codes.detach().requires_grad_()
    decoded = (generator.first_stage.decode_codes(codes) + 1) / 2
    (at_codes,) = torch.autograd.grad((decoded * cotangent).sum(), codes)
    torch.testing.assert_close(found.view(2, 3, 8, 8), at_codes / 0.5, atol=1e-5, rtol=1e-4)
    assert found.abs().mean() > 1e-3


def test_straight_through_has_values_of_codes_and_gradient_of_latents():
    latents, codes = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
    result = straight_through(latents, codes)
    torch.testing.assert_close(result, codes)
    (gradient,) = torch.autograd.grad((result * codes).sum(), latents)
    assert torch.equal(gradient, codes)


def test_nearest_codes_in_parts(monkeypatch):
    vectors, codebook = (
        seeded_tensor("input.vectors", (101, 3)).double(),
        seeded_tensor("input.codes", (40, 3)).double(),
    )
    expected = (vectors[:, None] - codebook).square().sum(-1).argmin(dim=1)
    assert torch.equal(nearest_codes(vectors, codebook), expected)
    monkeypatch.setattr(first_stage, "SEARCH_SIZE", 120)
    assert torch.equal(nearest_codes(vectors, codebook), expected)
    assert nearest_codes(vectors[:0], codebook).shape == (0,)


def test_options_are_checked(generator):
    for options, message in (
        ({"truncation": 1}, r"found option 'truncation' .* one of steps, eta, guidance, batch"),
        ({"steps": 0}, r"found steps=0, expected 1 .. 100"),
        ({"steps": 101}, r"found steps=101"),
        ({"eta": 1.5}, r"found eta=1.5"),
        ({"guidance": 2}, r"found guidance=2.0, expected 1: this model follows no prompt"),
        ({"batch": 0}, r"found batch=0"),
    ):
        with pytest.raises(ValueError, match=message):
            generator.configure(**options)
    assert (generator.steps, generator.eta, generator.batch) == (4, 0.0, 32)  # nothing half set
    with pytest.raises(ValueError, match=r"found latents of shape \(2, 5\), expected \(n, 192\)"):
        generator.synthesize(torch.zeros(2, 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 15}, "found image size 15, expected a multiple of 2"),
        ({"first_stage": {"kind": "vae", "config": {}}}, "found first stage 'vae', expected vq or kl"),
        ({"unet": {"kind": "text", "config": {}}}, "found a U-Net of kind 'text' with prompts=None"),
        ({"unet": {"kind": "image", "config": {"in_channels": 4}}}, "U-Net for 4 channels and a first stage with 3"),
        ({"unet": {"kind": "image", "config": {"out_channels": 6}}}, "U-Net that gives 6 channels for 3"),
        (
            {"scheduler": {"prediction_type": "flow_prediction"}},
            "prediction_type 'flow_prediction', expected one of ep",
        ),
        (
            {"first_stage": {"kind": "vq", "config": {"lookup_from_codebook": True}}},
            "VQ model whose latents are numbers of codes",
        ),
    ],
)
def test_arguments_are_checked(small_arguments, change, message):
    with pytest.raises(ValueError, match=message):
        LatentDiffusionGenerator(**small_arguments | change)


def test_encode_inverts_the_scale(generator):
    images = seeded_tensor("input.images", (2, 3, 16, 16)).sigmoid()
    with torch.no_grad():
        latents = generator.encode(images)
        assert torch.equal(latents.view(2, 3, 8, 8) / 0.5, generator.first_stage.encode(images * 2 - 1))


def test_arguments_build_it_again(generator):
    again = LatentDiffusionGenerator(**json.loads(json.dumps(generator.arguments)))
    again.load_state_dict(generator.state_dict())
    assert torch.equal(again.freeze().sample_latents(2, seed=0), generator.sample_latents(2, seed=0))
