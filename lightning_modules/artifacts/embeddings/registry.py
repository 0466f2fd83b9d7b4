"""What an embedding is, and how one is found by name."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor

from lightning_modules.common.tables import Table


@runtime_checkable
class Embedding(Protocol):
    """A map from images to the space in which real images form the manifold (ManiFPT, Sec. 3: the map ``e``).

    Attributes:
        name: Registry name, e.g. ``"rgb"``.
        version: Raised whenever the same image would be embedded differently, so that caches are not mixed.
        preprocessing: What happens to the image before it is embedded, in words; part of the identity.
        eight_bit: True if an 8-bit image embeds to multiples of 1/255 in [0, 1]. Its manifold is then stored as uint8
            and searched in integer arithmetic.
    """

    name: str
    version: int
    preprocessing: str
    eight_bit: bool

    def __call__(self, images: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            images: ``(N, 3, H, W)`` float32 in [0, 1].

        Returns:
            ``(N, *shape)`` float32.
        """
        ...


EMBEDDINGS = Table("embedding", {"rgb": "lightning_modules.artifacts.embeddings.rgb:RGBEmbedding"})
"""Where each embedding is defined; a new one is one file and one line here."""


def build_embedding(name: str, **arguments: Any) -> Embedding:
    """Build the embedding called ``name``.

    Args:
        name: A key of ``EMBEDDINGS``.
        **arguments: Passed on to the embedding's constructor.

    Raises:
        ValueError: No embedding has that name; the message suggests the nearest.
        TypeError: The embedding does not take one of the arguments.
    """
    embedding = EMBEDDINGS.load(name)
    try:
        return cast(Embedding, embedding(**arguments))
    except TypeError as error:
        raise TypeError(f"embedding '{name}' could not be built from {sorted(arguments)}: {error}") from error


def embedding_identity(embedding: Embedding) -> dict[str, str | int]:
    """Name, version and preprocessing: what must agree for two sets of embedded points to be comparable."""
    return {"name": embedding.name, "version": embedding.version, "preprocessing": embedding.preprocessing}
