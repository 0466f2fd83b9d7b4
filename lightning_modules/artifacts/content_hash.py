"""Content hashes of manifolds."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from lightning_modules.artifacts.embeddings import Embedding, embedding_identity
from lightning_modules.artifacts.manifold_files import dtype_name


def new_content_hash(embedding: dict[str, str | int], shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """The hash object that a manifold's points and content ids are added to."""
    header = json.dumps([embedding, list(shape), dtype_name(dtype)], sort_keys=True)
    return hashlib.blake2b(header.encode(), digest_size=16)


def manifold_key(images: Any, embedding: Embedding) -> str:
    """A folder name for the manifold of these images, the same for the same images and embedding.

    Args:
        images: Data set of the reals; its ``content_ids`` are used if it has them, otherwise every item is read.
        embedding: The space.
    """
    identifiers = getattr(images, "content_ids", None)
    if identifiers is None:
        identifiers = [int(images[i]["content_id"]) for i in range(len(images))]
    identity = json.dumps(embedding_identity(embedding), sort_keys=True)
    digest = hashlib.blake2b(identity.encode(), digest_size=8)
    digest.update(torch.as_tensor(identifiers, dtype=torch.int64).numpy().data)
    return f"{embedding.name}-{digest.hexdigest()}"
