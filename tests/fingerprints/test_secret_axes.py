"""Key axes drawn from a secret: the same subspace divided anew, and nobody finds the division without the secret."""

from __future__ import annotations

import re

import pytest
import torch

from lightning_modules.fingerprints.layouts import place_key
from lightning_modules.fingerprints.secret_axes import random_rotation, read_secret, turn_axes

DIM, BITS, SHIFT = 24, 6, 5
SECRET, OTHER = b"a" * 32, b"b" * 32


@pytest.fixture(scope="module")
def latents():
    mixed = torch.randn(DIM, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.randn(4000, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) @ mixed


@pytest.fixture(scope="module")
def placed(latents):
    return place_key(lambda: latents.split(500), DIM, BITS, SHIFT)


@pytest.mark.parametrize("window", [0, BITS + 4])
def test_key_axes_span_directions_of_the_window_alone(placed, window):
    turned = turn_axes(placed, SECRET, window)
    principal = torch.cat([placed.key_axes[0], placed.other_axes[SHIFT : SHIFT + max(window - BITS, 0)]])
    key = turned.key_axes[0]
    torch.testing.assert_close(key @ key.T, torch.eye(BITS, dtype=torch.float64))
    torch.testing.assert_close(key @ principal.T @ principal, key)
    assert (key @ principal.T).abs().max() < 0.99  # no bit lies on a principal axis


@pytest.mark.parametrize("window", [0, BITS + 4, DIM - SHIFT])
def test_axes_are_a_basis_with_the_deviations_of_the_latents(placed, latents, window):
    turned = turn_axes(placed, SECRET, window)
    basis = torch.cat([turned.key_axes.flatten(0, 1), turned.other_axes])
    torch.testing.assert_close(basis @ basis.T, torch.eye(DIM, dtype=torch.float64))
    along = (latents - latents.mean(dim=0)) @ basis.T
    deviations = torch.cat([turned.key_deviation.flatten(), turned.other_deviation])
    torch.testing.assert_close(along.std(dim=0), deviations)
    assert bool((turned.other_deviation.diff() <= 1e-9).all())
    others = torch.corrcoef(along[:, BITS:].T) - torch.eye(DIM - BITS, dtype=torch.float64)
    assert float(others.abs().max()) < 1e-9  # uncorrelated, so that a Gaussian prior of them is one of independent axes


def test_equal_secrets_give_equal_axes_and_others_do_not(placed):
    first, again, other = (turn_axes(placed, secret, 0).key_axes[0] for secret in (SECRET, SECRET, OTHER))
    assert torch.equal(first, again)
    assert float((first * other).sum(dim=1).abs().max()) < 0.95


def test_rotations_are_uniform():
    """Entries of uniform rotations have mean 0 and mean square 1 / size, and their trace has variance 1."""
    drawn = torch.stack([random_rotation(5, bytes([n % 256, n // 256])) for n in range(2000)])
    torch.testing.assert_close(drawn[7] @ drawn[7].T, torch.eye(5, dtype=torch.float64))
    assert float(drawn.mean(dim=0).abs().max()) < 5 * (1 / 5 / 2000) ** 0.5
    torch.testing.assert_close(
        drawn.square().mean(dim=0), torch.full((5, 5), 0.2, dtype=torch.float64), atol=0.03, rtol=0
    )
    assert float(drawn.diagonal(dim1=1, dim2=2).sum(dim=1).var()) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("window", [BITS - 1, DIM - SHIFT + 1])
def test_a_window_that_does_not_fit_is_refused(placed, window):
    expected = f"found key.window {window}, expected 0 or {BITS} to {DIM - SHIFT}"
    with pytest.raises(ValueError, match=expected):
        turn_axes(placed, SECRET, window)


def test_secrets_are_long_and_their_owners_alone(tmp_path):
    file = tmp_path / "secret"
    with pytest.raises(ValueError, match=r"found no file .*secrets\.token_hex"):
        read_secret(file)
    file.write_bytes(SECRET + b"\n")
    file.chmod(0o644)
    with pytest.raises(ValueError, match=re.escape(f"chmod 600 {file}")):
        read_secret(file)
    file.chmod(0o600)
    assert read_secret(file) == SECRET
    file.write_bytes(b"password")
    with pytest.raises(ValueError, match="found a secret of 8 bytes, expected 32 at least"):
        read_secret(file)
