"""Embeddings, the manifold of real images and exact nearest neighbours in it (ManiFPT, Sec. 3). Pure torch."""

from __future__ import annotations

from lightning_modules.artifacts.embeddings.registry import EMBEDDINGS, Embedding, build_embedding, embedding_identity
from lightning_modules.artifacts.manifold import Manifold
from lightning_modules.artifacts.manifold_files import ManifoldError, manifold_key
from lightning_modules.artifacts.neighbour_cache import NeighbourCache
from lightning_modules.artifacts.search.refinement import SearchReport

__all__ = [
    "EMBEDDINGS",
    "Embedding",
    "Manifold",
    "ManifoldError",
    "NeighbourCache",
    "SearchReport",
    "build_embedding",
    "embedding_identity",
    "manifold_key",
]
