"""The artifact of an image, and the views it is compared with in the controls of a report."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

View = Literal["artifact", "raw", "nearest", "random"]
"""What is shown to the classifier: the artifact, or one of its three controls."""

VIEWS: tuple[View, ...] = get_args(View)


def artifact(embedded: Tensor, nearest_points: Tensor) -> Tensor:
    """Signed difference between an embedded image and its nearest real point.

    ManiFPT, Sec. 3: with ``e`` the embedding and the manifold estimated by the set of embedded real images, the nearest
    point of a generated image ``x`` is ``x* = argmin over real r of ||e(x) - e(r)||_2`` and its artifact is
    ``a(x) = e(x) - x*``: generated minus real, signed, without absolute value or rescaling. The fingerprint of a
    generator is the set of the artifacts of its images.

    Args:
        embedded: ``(N, *shape)`` float32, ``e(x)``.
        nearest_points: ``(N, *shape)`` float32, ``x*``; the same space and shape.

    Returns:
        ``(N, *shape)`` float32; in RGB in [-1, 1].

    Raises:
        ValueError: The shapes differ.
    """
    if embedded.shape != nearest_points.shape:
        raise ValueError(
            f"The embedded images have shape {tuple(embedded.shape)} and their nearest points "
            f"{tuple(nearest_points.shape)}; both must come from the same embedding and the same batch."
        )
    return embedded - nearest_points


def view_of(view: View | str, embedded: Tensor, nearest_points: Tensor, random_points: Tensor | None = None) -> Tensor:
    """What a classifier sees under one of the report's controls.

    Args:
        view: ``artifact`` (signed difference to the nearest real point), ``raw`` (the embedded image), ``nearest`` (the
            nearest real point alone) or ``random`` (signed difference to a random real point).
        embedded: ``(N, *shape)`` float32.
        nearest_points: ``(N, *shape)`` float32.
        random_points: ``(N, *shape)`` float32, points at :func:`random_indices`; needed for ``random`` only.

    Returns:
        ``(N, *shape)`` float32.

    Raises:
        ValueError: Unknown view, ``random`` without its points, or shapes that differ.
    """
    if view == "artifact":
        return artifact(embedded, nearest_points)
    if view == "raw":
        return embedded
    if view == "nearest":
        return nearest_points
    if view == "random":
        if random_points is None:
            raise ValueError("View 'random' needs random_points: pass manifold.points(random_indices(...)).")
        return artifact(embedded, random_points)
    raise ValueError(f"There is no view called '{view}'. Valid names: {', '.join(VIEWS)}.")
