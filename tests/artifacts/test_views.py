"""Artifacts and the control views, against the definitions."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.artifacts import VIEWS, artifact, view_of
from lightning_modules.common.random_streams import random_indices


def test_an_artifact_is_the_signed_difference():
    image, nearest = torch.tensor([[0.25, 0.5]]), torch.tensor([[0.5, 0.25]])
    assert artifact(image, nearest).tolist() == [[-0.25, 0.25]]
    with pytest.raises(ValueError, match="shape"):
        artifact(image, nearest[:, :1])


def test_views_are_what_their_names_say():
    image, nearest, random = torch.rand(3, 2, 3, 4, 4)
    expected = {"artifact": image - nearest, "raw": image, "nearest": nearest, "random": image - random}
    assert set(expected) == set(VIEWS)
    for name, tensor in expected.items():
        assert torch.equal(view_of(name, image, nearest, random), tensor)
    with pytest.raises(ValueError, match="random"):
        view_of("random", image, nearest)
    with pytest.raises(ValueError, match="artifact, raw"):
        view_of("absolute", image, nearest)


@pytest.mark.parametrize("seed", [0, 1, 2, 41, 2**31 - 1])
def test_random_reals_depend_on_seed_and_image_alone(seed):
    identifiers = torch.randint(0, 2**62, (5000,), generator=torch.Generator().manual_seed(0))
    chosen = random_indices(identifiers, 50, seed)
    assert torch.equal(random_indices(identifiers[7:9], 50, seed), chosen[7:9])
    assert chosen.min() >= 0
    assert chosen.max() < 50
    counts = torch.bincount(chosen, minlength=50).double()
    statistic = float(((counts - 100) ** 2 / 100).sum())
    assert statistic < 90  # chi-square with 49 degrees of freedom: above this once in 3,000 times
    agree = float((random_indices(identifiers, 50, seed + 1) == chosen).double().mean())
    assert agree == pytest.approx(1 / 50, abs=0.01)


def test_random_reals_need_a_manifold():
    with pytest.raises(ValueError, match="at least one"):
        random_indices(torch.tensor([1]), 0)
