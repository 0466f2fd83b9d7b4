"""The losses of the StyleGAN2 training against what the papers define, on networks whose answers are known."""

from __future__ import annotations

import pytest
import torch

from lightning_modules import zoo

SMALL = {"image_size": 8, "latent_dim": 6, "mapping_layers": 1, "channel_base": 64, "channel_max": 4}


@pytest.fixture
def module():
    torch.manual_seed(0)
    training = zoo.StyleGAN2(**SMALL)
    training.log = lambda *args, **kwargs: None
    return training


def test_r1_is_half_gamma_times_the_squared_gradient(module):
    direction = torch.randn(3, 8, 8)
    # its gradient is the direction
    module.discriminator.forward = lambda images: (images * direction).flatten(1).sum(dim=1)
    penalty = module._r1(torch.rand(5, 3, 8, 8))
    assert float(penalty) == pytest.approx(module.hparams["r1"] / 2 * float(direction.square().sum()), rel=1e-5)


def test_r1_reaches_the_discriminator(module):
    module._r1(torch.rand(4, 3, 8, 8)).backward()
    gradients = [p.grad for name, p in module.discriminator.named_parameters() if name.endswith("weight")]
    assert all(gradient is not None and float(gradient.abs().sum()) > 0 for gradient in gradients)


def test_path_length_of_a_linear_generator_is_its_known_scale(module):
    """Images scale * A s with orthonormal A have |J^T y| of expectation near scale * |y projected|."""
    count, dim = module.generator.synthesis.styles, 6
    matrix = torch.linalg.qr(torch.randn(3 * 8 * 8, count * dim)).Q
    module._styles = lambda n: torch.randn(n, count, dim, requires_grad=True)
    module._images = lambda styles: 5.0 * (styles.flatten(1) @ matrix.T).view(-1, 3, 8, 8)
    first = float(module._path_length(64))
    # |J^T y|^2 / styles averages 25 * dim / 64 for y ~ N(0, I) / sqrt(64 pixels)
    expected = (25.0 * dim / 64.0) ** 0.5
    assert float(module.path_length_mean) == pytest.approx(0.01 * expected, rel=0.1)
    assert first == pytest.approx(2.0 * expected**2, rel=0.25)  # far from its moving average at first
    for _ in range(600):
        module._path_length(16)
    assert float(module.path_length_mean) == pytest.approx(expected, rel=0.05)
    assert float(module._path_length(64)) < first / 5


def test_style_mixing_changes_at_one_layer(module):
    module.hparams["style_mixing"] = 1.0
    styles = module._styles(16)
    same = (styles[:, 1:] == styles[:, :-1]).all(dim=2)
    assert torch.equal((~same).sum(dim=1), torch.ones(16, dtype=torch.long))
    module.hparams["style_mixing"] = 0.0
    styles = module._styles(4)
    assert torch.equal(styles[:, 0], styles[:, -1])


def test_adam_is_corrected_for_lazy_regularisation(module):
    discriminator, generator = module.configure_optimizers()
    share = 16 / 17
    assert discriminator.param_groups[0]["lr"] == pytest.approx(2e-3 * share)
    assert discriminator.param_groups[0]["betas"] == pytest.approx((0.0, 0.99**share))
    assert generator.param_groups[0]["lr"] == pytest.approx(2e-3 * 8 / 9)


def test_images_of_another_size_are_refused_in_words(module):
    with pytest.raises(ValueError, match="found images of 16 px, expected 8: set the model's image_size"):
        module.training_step({"image": torch.rand(4, 3, 16, 16)}, 0)
