"""The artifact of an image (ManiFPT, Sec. 3), and the controls that it is compared with."""

from __future__ import annotations

from torch import Tensor

from lightning_modules.common.tables import Choice
from lightning_modules.representations.registry import Inputs, Representation


def artifact(embedded: Tensor, points: Tensor | None) -> Tensor:
    """Signed difference between an embedded image and a real point, ``(N, *shape)`` float32; in RGB in [-1, 1].

    ManiFPT, Sec. 3: with ``e`` the embedding and the manifold estimated by the embedded real images, the nearest point
    of an image ``x`` is ``x* = argmin over real r of ||e(x) - e(r)||_2`` and its artifact is ``a(x) = e(x) - x*``:
    signed, without absolute value or rescaling. A generator's fingerprint is the set of its images' artifacts.

    Raises:
        ValueError: No points, or another shape.
    """
    if points is None or embedded.shape != points.shape:
        found = f"{tuple(embedded.shape)} and their real points {None if points is None else tuple(points.shape)}"
        raise ValueError(f"The embedded images have shape {found}; both must come from the same embedding and batch.")
    return embedded - points


class _OfSpace(Representation):
    """A representation in a space of its own, if it is given one."""

    def __init__(self, embedding: Choice | None = None) -> None:
        self.embedding = embedding


class _WithNeighbours(_OfSpace):
    """One that sees nearest reals.

    Raises:
        ValueError: Fewer than one neighbour.
    """

    needs_neighbours = True

    def __init__(
        self, embedding: Choice | None = None, search_space: Choice | None = None, neighbours: int | None = None
    ) -> None:
        super().__init__(embedding)
        self.search_space, self.neighbours = search_space, check_neighbours(neighbours)


def check_neighbours(neighbours: int | None) -> int | None:
    """A number of nearest reals; ValueError below one."""
    if neighbours is not None and neighbours < 1:
        raise ValueError(f"found neighbours {neighbours}, expected 1 (the paper's nearest real) or more")
    return neighbours


class Artifact(_WithNeighbours):
    """The embedded image minus its nearest real, or minus the mean of its k nearest (k > 1 is not in the paper)."""

    name, title = "artifact", "artifact: image − nearest real"

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        return inputs.show(artifact(inputs.embedded, inputs.nearest))


class Raw(_OfSpace):
    """The embedded image itself; in RGB the pixels."""

    name, title = "raw", "raw image"

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        return inputs.show(inputs.embedded)


class Nearest(_WithNeighbours):
    """The nearest real alone."""

    name, title = "nearest", "nearest real alone"
    no_gradient = "the nearest real stays the same when a pixel changes a little"

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        if inputs.nearest is None:
            raise ValueError("representation 'nearest' needs the nearest reals of the batch, found none")
        return inputs.show(inputs.nearest)


class RandomDifference(_OfSpace):
    """The embedded image minus a random real."""

    name, title, needs_random_real = "random", "image − random real", True

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        return inputs.show(artifact(inputs.embedded, inputs.random))
