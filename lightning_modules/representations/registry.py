"""What a representation is, and how one is found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor

from lightning_modules.common.tables import Choice, Table


@dataclass(frozen=True)
class Inputs:
    """What a representation may use of a batch.

    Attributes:
        images: ``(N, 3, H, W)`` float32 in [0, 1].
        embedded: ``(N, *shape)`` float32, the images in the embedding's space.
        nearest: ``(N, *shape)`` float32, the nearest real point of each; None unless a representation needs it.
        random: ``(N, *shape)`` float32, a random real point for each, always the same; None likewise.
    """

    images: Tensor
    embedded: Tensor
    nearest: Tensor | None = None
    random: Tensor | None = None


class Representation(ABC):
    """What a classifier sees of an image. A subclass sets the attributes and gives ``__call__``.

    Attributes:
        version: Raised whenever the same image would be represented differently.
        needs_neighbours: Whether it uses the nearest real; if nothing does, none is searched.
        needs_random_real: Whether it uses a random real.
        fit_images: Training images that :meth:`fit` wants; 0 for a representation without anything to fit.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1
    needs_neighbours: ClassVar[bool] = False
    needs_random_real: ClassVar[bool] = False
    fit_images: int = 0

    @abstractmethod
    def __call__(self, inputs: Inputs) -> Tensor:
        """Image-shaped ``(N, C, H, W)`` or vectors ``(N, d)``, float32; row i depends on image i alone."""

    def output_shape(self, image_shape: tuple[int, ...], embedded_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one representation, by the shapes of one image and of its embedding."""
        return embedded_shape

    def fit(self, batches: Iterable[Inputs]) -> None:
        """Learn from training images, once: the same ones on every process."""
        raise NotImplementedError(f"representation {self.name!r} asks for {self.fit_images} images and fits nothing")

    def state(self) -> dict[str, Tensor]:
        """What was fitted; travels in the checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        if state:
            raise ValueError(f"found fitted {', '.join(state)} for representation {self.name!r}, which fits nothing")


_CLASSES = {"artifact": "Artifact", "raw": "Raw", "nearest": "Nearest", "random": "RandomDifference"}
REPRESENTATIONS = Table(
    "representation",
    {name: f"lightning_modules.representations.artifact:{found}" for name, found in _CLASSES.items()},
)
"""Where each representation is defined; a new one is one file and one line here."""


def build_representation(choice: Choice) -> Representation:
    """Build a representation from its name, or a mapping of ``name`` and arguments.

    Raises:
        ValueError: No such representation or argument; the message suggests the nearest.
    """
    return cast(Representation, REPRESENTATIONS.build(choice))


def representation_title(name: str) -> str:
    """How figures and tables call a representation."""
    representation: Any = REPRESENTATIONS.load(name)
    return str(representation.title)
