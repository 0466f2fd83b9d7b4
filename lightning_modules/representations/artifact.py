"""The artifact of an image (ManiFPT, Sec. 3), and the controls that it is compared with."""

from __future__ import annotations

from torch import Tensor

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


class Artifact(Representation):
    """The embedded image minus its nearest real."""

    name, title, needs_neighbours = "artifact", "artifact: image − nearest real", True

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        return artifact(inputs.embedded, inputs.nearest)


class Raw(Representation):
    """The embedded image itself; in RGB the pixels."""

    name, title = "raw", "raw image"

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        return inputs.embedded


class Nearest(Representation):
    """The nearest real alone."""

    name, title, needs_neighbours = "nearest", "nearest real alone", True

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        if inputs.nearest is None:
            raise ValueError("representation 'nearest' needs the nearest reals of the batch, found none")
        return inputs.nearest


class RandomDifference(Representation):
    """The embedded image minus a random real."""

    name, title, needs_random_real = "random", "image − random real", True

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        return artifact(inputs.embedded, inputs.random)
