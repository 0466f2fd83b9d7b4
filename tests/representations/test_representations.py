"""Embeddings by name, the artifact and its controls."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.artifacts import (
    EMBEDDINGS,
    VIEWS,
    Embedding,
    artifact,
    build_embedding,
    embedding_identity,
    view_of,
)
from lightning_modules.common.random_streams import random_indices


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_every_embedding_keeps_the_contract(name):
    embedding = build_embedding(name)
    assert isinstance(embedding, Embedding)
    assert embedding.name == name
    assert set(embedding_identity(embedding)) == {"name", "version", "preprocessing"}
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float() / 255
    embedded = embedding(images)
    assert len(embedded) == 3
    assert embedded.dtype == torch.float32
    torch.testing.assert_close(embedding(images[1:2]), embedded[1:2])  # an image's point is its own
    if embedding.eight_bit:
        assert torch.equal(embedded, (embedded * 255).round() / 255)


def test_rgb_is_the_image():
    images = torch.rand(2, 3, 5, 7)
    assert torch.equal(build_embedding("rgb")(images), images)
    assert build_embedding("rgb")(images.double()).dtype == torch.float32
    for wrong in (torch.rand(2, 1, 5, 7), torch.rand(3, 5, 7), torch.zeros(2, 3, 5, 7, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"Expected images of shape \(N, 3, H, W\)"):
            build_embedding("rgb")(wrong)


def test_unknown_embeddings_and_arguments():
    with pytest.raises(ValueError, match="found embedding 'rbg'; did you mean rgb"):
        build_embedding("rbg")
    with pytest.raises(TypeError, match="'rgb' could not be built from \\['size'\\]"):
        build_embedding("rgb", size=3)


def test_artifact_is_signed_generated_minus_real():
    generated, real = torch.tensor([[0.25, 1.0]]), torch.tensor([[0.75, 0.5]])
    assert artifact(generated, real).tolist() == [[-0.5, 0.5]]
    with pytest.raises(ValueError, match="same embedding"):
        artifact(generated, real[:, :1])


def test_views():
    embedded, nearest, other = torch.rand(3, 2, 4).unbind()
    expected = {"artifact": embedded - nearest, "raw": embedded, "nearest": nearest, "random": embedded - other}
    assert set(VIEWS) == set(expected)
    for name, view in expected.items():
        assert torch.equal(view_of(name, embedded, nearest, other), view)
    with pytest.raises(ValueError, match="needs random_points"):
        view_of("random", embedded, nearest)
    with pytest.raises(ValueError, match="no view called 'blurred'"):
        view_of("blurred", embedded, nearest)


def _splitmix(identifier: int, seed: int) -> int:
    mask = 2**64 - 1
    z = (identifier + (seed + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) & (2**62 - 1)


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**40])
def test_random_reals_are_a_hash_of_the_image(seed):
    ids = torch.cat([torch.arange(1000), torch.tensor([2**62 + 17, 2**63 - 1])])
    chosen = random_indices(ids, 37, seed)
    assert chosen.tolist() == [_splitmix(identifier, seed) % 37 for identifier in ids.tolist()]
    assert torch.equal(random_indices(ids.flip(0)[:5], 37, seed), chosen.flip(0)[:5])


def test_random_reals_are_uniform_and_depend_on_the_seed():
    ids = torch.arange(50_000)
    counts = torch.bincount(random_indices(ids, 50), minlength=50).double()
    chi_square = float(((counts - 1000).square() / 1000).sum())
    assert chi_square < 85.4  # 99.9 % quantile of chi-square with 49 degrees of freedom
    assert (random_indices(ids, 50, 0) == random_indices(ids, 50, 1)).double().mean() < 0.03
    with pytest.raises(ValueError, match="expected at least one"):
        random_indices(ids, 0)
