"""Reals, queries and the brute-force search that the tests compare with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lightning_modules.artifacts import Manifold, build_embedding
from lightning_modules.artifacts.embeddings.registry import Embedding


class FlatEmbedding(Embedding):
    """A float embedding for tests: pixels times a factor, flattened."""

    name, version, preprocessing, eight_bit = "flat", 3, "flattened", False

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor
        self.arguments = {"factor": factor}

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1) * self.factor


def random_bytes(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def smooth_bytes(count: int, size: int = 12, axes: int = 6, seed: int = 0, noise: float = 3.0) -> Tensor:
    """Grey images as RGB that lie near a low-dimensional space, with a black border: what bounds are made for."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(axes, size * size, generator=torch.Generator().manual_seed(99))
    weights = torch.randn(count, axes, generator=generator)
    grey = 128 + 25 * weights @ basis + noise * torch.randn(count, size * size, generator=generator)
    images = grey.round().clamp(0, 255).to(torch.uint8).view(count, 1, size, size)
    images[..., 0], images[..., 0, :] = 0, 0
    return images.repeat(1, 3, 1, 1)


def build(
    folder: Path, images: Tensor, embedding: Embedding | None = None, first_id: int = 1000, axes: int | None = None
) -> Manifold:
    ids = torch.arange(first_id, first_id + len(images))
    batches = [{"image": images[i : i + 100], "content_id": ids[i : i + 100]} for i in range(0, len(images), 100)]
    return Manifold.build(folder, batches, embedding or build_embedding("rgb"), axes=axes)


def brute_force(
    queries: Tensor, references: Tensor, k: int = 1, banned: Tensor | None = None, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Float64 differences of every pair, one query at a time, ties to the lowest index."""
    references = references.flatten(1).double()
    distances, indices = [], []
    for row, query in enumerate(queries.flatten(1).double()):
        squared = (references - query).square().sum(1)
        if banned is not None:
            squared[banned[row]] = torch.inf
        order = torch.argsort(squared, stable=True)[:k]
        distances.append(squared[order].sqrt() * scale)
        indices.append(order)
    return torch.stack(distances), torch.stack(indices)
