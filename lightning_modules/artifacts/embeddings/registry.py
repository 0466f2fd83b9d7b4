"""What an embedding is, and how one is found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from lightning_modules.common.tables import Choice, Table


class Embedding(ABC):
    """A map from images to the space in which real images form the manifold (ManiFPT, Sec. 3: the map ``e``).

    A network is frozen and in evaluation mode; gradients flow through it to the images.

    Attributes:
        version: Raised whenever the same image would be embedded differently, so that caches are not mixed.
        preprocessing: What happens to the image before it is embedded, in words; part of the identity.
        arguments: Plain values that change what comes out (a file of weights by its hash); part of the identity.
        eight_bit: True if an 8-bit image embeds to multiples of 1/255 in [0, 1]. Its manifold is then stored as uint8
            and searched in integer arithmetic; points of an image's shape are taken to be the image.
        costly: True if embedded images are worth keeping on disk.
        label: What tells it from the same embedding with other arguments, in names and figures.
        coloured: True if the three channels of a point are the red, green and blue of an image or of a part of it.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    preprocessing: ClassVar[str]
    arguments: Mapping[str, Any] = MappingProxyType({})
    eight_bit: ClassVar[bool] = False
    costly: ClassVar[bool] = False
    label: str = ""
    coloured: bool = False

    def to(self, device: torch.device) -> Embedding:
        """The embedding on a device, as ``nn.Module.to``."""
        return self

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` float32 in [0, 1] to points ``(N, C, h, w)`` or ``(N, d)`` float32, on the same device."""

    def show(self, points: Tensor) -> Tensor:
        """What networks and people see of points, or of differences between them; linear."""
        return points

    def mirror(self, shown: Tensor) -> Tensor:
        """What ``show`` gives of the mirrored images, by what it gives of the images; vectors stay as they are."""
        return shown.flip(-1) if shown.ndim == 4 else shown


_MODULES = "lightning_modules.artifacts.embeddings"
EMBEDDINGS = Table(
    "embedding",
    {
        "rgb": f"{_MODULES}.rgb:RGBEmbedding",
        "residual": f"{_MODULES}.rgb:ResidualEmbedding",
        "freq": f"{_MODULES}.freq:FreqEmbedding",
        "sl": f"{_MODULES}.network:SupervisedEmbedding",
        "ssl": f"{_MODULES}.network:SelfSupervisedEmbedding",
    },
)
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
