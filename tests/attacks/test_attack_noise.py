"""The noise is white, Gaussian, and as strong as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coloured_images import some_seeds
from scipy.stats import kstest

from lightning_modules.attacks import make_attack


@pytest.mark.parametrize("std", [0.02, 0.1])
def test_standard_deviation_is_in_units_of_the_unit_range(std):
    grey, seeds = torch.full((40, 3, 32, 32), 128 / 255), some_seeds(40)
    attack = make_attack(f"noise_{std}")
    field = (attack.differentiable(grey, seeds) - grey).numpy()
    assert field.std() == pytest.approx(std, rel=0.02)
    assert kstest(field.ravel()[:20_000] / std, "norm").pvalue > 1e-3
    rounded = (attack(grey, seeds) - grey).numpy()
    assert rounded.std() == pytest.approx(np.hypot(std, 1 / 255 / 12**0.5), rel=0.02)


def test_noise_is_white_over_pixels_channels_and_images():
    grey = torch.full((60, 3, 16, 16), 0.5)
    field = make_attack("noise_0.05").differentiable(grey, some_seeds(60)).numpy() - 0.5
    for first, second in [
        (field[..., 1:], field[..., :-1]),
        (field[..., 1:, :], field[..., :-1, :]),
        (field[:, 0], field[:, 1]),
        (field[:-1], field[1:]),
    ]:
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.03


def test_paper_noise_has_the_std_it_drew_for_each_image():
    grey, seeds = torch.full((30, 3, 64, 64), 0.5), some_seeds(30)
    attack = make_attack("paper-noise")
    measured = (attack.differentiable(grey, seeds) - grey).flatten(1).std(1).numpy()
    assert np.allclose(measured, attack.draw(seeds.numpy(), 64)["std"], rtol=0.05)


def test_the_field_is_the_same_at_every_strength_and_in_every_preset():
    grey, seeds = torch.full((2, 3, 8, 8), 0.5), some_seeds(2)
    weak = make_attack("noise_0.02").differentiable(grey, seeds) - grey
    assert torch.allclose(make_attack("noise_0.1").differentiable(grey, seeds) - grey, 5 * weak, atol=1e-6)
    drawn = torch.from_numpy(make_attack("paper-noise").draw(seeds.numpy(), 8)["std"]).float().view(-1, 1, 1, 1)
    assert torch.allclose(make_attack("paper-noise").differentiable(grey, seeds) - grey, weak / 0.02 * drawn, atol=1e-6)
