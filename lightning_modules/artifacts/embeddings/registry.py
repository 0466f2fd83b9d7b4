"""What an embedding is, and how one is found by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from lightning_modules.common.tables import Choice, Table


@runtime_checkable
class Embedding(Protocol):
    """A map from images to the space in which real images form the manifold (ManiFPT, Sec. 3: the map ``e``).

    A network is frozen, in evaluation mode, and needs no gradients.

    Attributes:
        version: Raised whenever the same image would be embedded differently, so that caches are not mixed.
        preprocessing: What happens to the image before it is embedded, in words; part of the identity.
        arguments: Plain values that change what comes out (a file of weights by its hash); part of the identity.
        eight_bit: True if an 8-bit image embeds to multiples of 1/255 in [0, 1]. Its manifold is then stored as uint8
            and searched in integer arithmetic; points of an image's shape are taken to be the image.
    """

    name: str
    version: int
    preprocessing: str
    arguments: Mapping[str, Any]
    eight_bit: bool

    def to(self, device: torch.device) -> Embedding:
        """The embedding on a device, as ``nn.Module.to``."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` float32 in [0, 1] to ``(N, C, h, w)`` or ``(N, d)`` float32, on the same device."""
        ...


EMBEDDINGS = Table("embedding", {"rgb": "lightning_modules.artifacts.embeddings.rgb:RGBEmbedding"})
"""Where each embedding is defined; a new one is one file and one line here."""


def build_embedding(choice: Choice) -> Embedding:
    """Build an embedding from its name, or a mapping of ``name`` and arguments.

    Raises:
        ValueError: No such embedding or argument; the message suggests the nearest.
    """
    return cast(Embedding, EMBEDDINGS.build(choice))


def embedding_identity(embedding: Embedding) -> dict[str, Any]:
    """What must agree for two sets of embedded points to be comparable; ``arguments`` only where there are any."""
    identity = {"name": embedding.name, "version": embedding.version, "preprocessing": embedding.preprocessing}
    return identity | ({"arguments": dict(embedding.arguments)} if embedding.arguments else {})
