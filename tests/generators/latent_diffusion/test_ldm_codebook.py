"""Codes start as latents, unused ones start again, and their use is measured."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.generators.latent_diffusion.first_stage import (
    PatchDiscriminator,
    adaptive_weight,
    codebook_use,
    fill_codebook,
    hinge_loss,
    restart_codes,
)


def test_filled_codes_are_latents_and_distinct():
    torch.manual_seed(0)
    vectors, codebook = 5 + torch.randn(50, 3), torch.zeros(80, 3)
    fill_codebook(codebook, vectors)
    assert torch.cdist(codebook, vectors).min(dim=1).values.max() < 0.1
    assert len(codebook.unique(dim=0)) == 80


def test_restart_leaves_other_codes():
    torch.manual_seed(0)
    codebook = torch.zeros(4, 2)
    restart_codes(
        codebook, torch.full((6, 2), 3.0) + torch.randn(6, 2) * 0.01, torch.tensor([True, False, True, False])
    )
    assert torch.equal(codebook[[1, 3]], torch.zeros(2, 2))
    assert (codebook[[0, 2]] > 2.5).all()


@pytest.mark.parametrize(
    ("counts", "used", "perplexity"),
    [([5, 5, 5, 5], 1.0, 4.0), ([7, 0, 0, 0], 0.25, 1.0), ([3, 1, 0, 0], 0.5, 4 / 3**0.75), ([0, 0], 0.0, 1.0)],
)
def test_use(counts, used, perplexity):
    assert codebook_use(torch.tensor(counts)) == pytest.approx((used, perplexity))


def test_discriminator_judges_patches():
    judged = PatchDiscriminator(8)(torch.zeros(2, 3, 32, 32))
    assert judged.shape == (2, 1, 8, 8)
    assert hinge_loss(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 1.0])) == pytest.approx((0.5 + 1.0) / 2)


def test_weight_balances_gradients():
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    balance = adaptive_weight(3 * weight.sum(), 0.5 * weight.sum(), weight)
    assert balance == pytest.approx(6.0, rel=1e-3)
    assert not balance.requires_grad
