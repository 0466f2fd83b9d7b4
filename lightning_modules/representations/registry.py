"""What a representation is, and how one is found by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor

from lightning_modules.common.tables import Choice, Table


def _as_it_is(points: Tensor) -> Tensor:
    return points


@dataclass(frozen=True)
class Inputs:
    """What a representation may use of a batch.

    Attributes:
        images: ``(N, 3, H, W)`` float32 in [0, 1].
        embedded: ``(N, *shape)`` float32, the images in the representation's space.
        neighbours: ``(N, k, *shape)`` float32, the k nearest reals of each in the representation's space; None unless
            it needs them.
        random: ``(N, *shape)`` float32, a random real point for each, always the same; None likewise.
        show: What networks see of points or their differences (``Embedding.show``).
    """

    images: Tensor
    embedded: Tensor
    neighbours: Tensor | None = None
    random: Tensor | None = None
    show: Callable[[Tensor], Tensor] = _as_it_is

    @property
    def nearest(self) -> Tensor | None:
        """``(N, *shape)``: the nearest real point of each image; with k > 1 the mean of the k nearest."""
        if self.neighbours is None:
            return None
        return self.neighbours[:, 0] if self.neighbours.shape[1] == 1 else self.neighbours.mean(dim=1)


class Representation(ABC):
    """What a classifier sees of an image. A subclass sets the attributes and gives ``__call__``.

    Attributes:
        embedding: Its space; None for the attributor's.
        search_space: The space in which its nearest reals are searched; None for the attributor's, or else its own.
        neighbours: How many nearest reals it sees; None for the attributor's number.
        version: Raised whenever the same image would be represented differently.
        needs_neighbours: Whether it uses the nearest real; if nothing does, none is searched.
        needs_random_real: Whether it uses a random real.
        fit_images: Training images that :meth:`fit` wants; 0 for a representation without anything to fit.
        no_gradient: Why it, or a part of it, does not follow a pixel smoothly, so that gradients say less than the
            whole; empty where they say how it changes.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1
    needs_neighbours: ClassVar[bool] = False
    needs_random_real: ClassVar[bool] = False
    fit_images: int = 0
    no_gradient: ClassVar[str] = ""
    embedding: Choice | None = None
    search_space: Choice | None = None
    neighbours: int | None = None

    @abstractmethod
    def __call__(self, inputs: Inputs) -> Tensor:
        """Image-shaped ``(N, C, H, W)`` or vectors ``(N, d)``, float32; row i depends on image i alone."""

    def output_shape(self, image_shape: tuple[int, ...], shown_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one representation, by the shapes of one image and of what its space shows of it."""
        return shown_shape

    def mirror(self, seen: Tensor, of_space: Callable[[Tensor], Tensor]) -> Tensor:
        """What it gives of mirrored images, by what it gives of the images; `of_space` is its space's own `mirror`."""
        return of_space(seen)

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


_HERE, _BASELINES = "lightning_modules.representations", "lightning_modules.representations.baselines"
REPRESENTATIONS = Table(
    "representation",
    {
        "artifact": f"{_HERE}.artifact:Artifact",
        "raw": f"{_HERE}.artifact:Raw",
        "nearest": f"{_HERE}.artifact:Nearest",
        "random": f"{_HERE}.artifact:RandomDifference",
        "residual_cooccurrence": f"{_HERE}.residual_statistics:ResidualCooccurrence",
        "welch_spectrum": f"{_HERE}.residual_statistics:WelchSpectrum",
        "residual_statistics": f"{_HERE}.residual_statistics:ResidualStatistics",
        "vector": f"{_HERE}.vector:Vector",
        "saturation": f"{_BASELINES}.saturation:Saturation",
        "colour_ratios": f"{_BASELINES}.saturation:ColourRatios",
        "cooccurrence": f"{_BASELINES}.cooccurrence:Cooccurrence",
        "radial_spectrum": f"{_BASELINES}.radial_spectrum:RadialSpectrum",
        "spectrum_decay": f"{_BASELINES}.spectrum_decay:SpectrumDecay",
        "denoising_residual": f"{_BASELINES}.denoising_residual:DenoisingResidual",
    },
)
"""Where each representation is defined; a new one is one file and one line here."""


def build_representation(choice: Choice) -> Representation:
    """Build a representation from its name, or a mapping of ``name`` and arguments.

    Raises:
        ValueError: No such representation or argument; the message suggests the nearest.
    """
    return cast(Representation, REPRESENTATIONS.build(choice))


def representation_title(name: str) -> str:
    """How figures and tables call a representation; a name that no table knows stands for itself."""
    return str(REPRESENTATIONS.load(name).title) if name in REPRESENTATIONS else name
