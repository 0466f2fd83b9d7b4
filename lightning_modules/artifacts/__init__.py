"""Embeddings, the manifold of real images, exact nearest neighbours, and artifacts (ManiFPT, Sec. 3). Pure torch."""

from __future__ import annotations

from lightning_modules.artifacts.artifact import VIEWS, View, artifact, random_reals, view_of
from lightning_modules.artifacts.content_hash import manifold_key
from lightning_modules.artifacts.embeddings import Embedding, build_embedding, embedding_identity, embedding_names
from lightning_modules.artifacts.exact_search import Neighbours
from lightning_modules.artifacts.manifold import Manifold
from lightning_modules.artifacts.manifold_files import ManifoldError
from lightning_modules.artifacts.neighbour_cache import NeighbourCache
from lightning_modules.artifacts.refinement import SearchReport
from lightning_modules.artifacts.search_memory import DEFAULT_MEMORY_LIMIT

__all__ = [
    "DEFAULT_MEMORY_LIMIT",
    "VIEWS",
    "Embedding",
    "Manifold",
    "ManifoldError",
    "NeighbourCache",
    "Neighbours",
    "SearchReport",
    "View",
    "artifact",
    "build_embedding",
    "embedding_identity",
    "embedding_names",
    "manifold_key",
    "random_reals",
    "view_of",
]
