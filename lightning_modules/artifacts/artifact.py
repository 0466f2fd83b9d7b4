"""The artifact of an image, and the views it is compared with in the controls of a report."""

from __future__ import annotations

from typing import Literal, get_args

import torch
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


def random_reals(content_ids: Tensor, count: int, seed: int = 0) -> Tensor:
    """Choose one reference at random for each image, the same one in every epoch, batch, rank and process.

    The control "difference to a random real image" needs a reference that depends on nothing but the image itself, so
    the index is a hash of ``(seed, content id)``.

    Args:
        content_ids: ``(N,)`` int64.
        count: Number of references to choose from, at least 1.
        seed: Another seed, another choice.

    Returns:
        ``(N,)`` int64 in ``[0, count)``, near uniform.

    Raises:
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"A random reference was asked for out of {count}; the manifold must hold at least one image.")
    # splitmix64's mixing steps: int64 products wrap around, and the masks turn arithmetic shifts into logical ones.
    offset = (seed + 1) * 0x9E3779B97F4A7C15 % 2**64
    mixed = content_ids.to(torch.int64) + (offset - 2**64 if offset >= 2**63 else offset)
    mixed = (mixed ^ ((mixed >> 30) & ((1 << 34) - 1))) * -0x40A7B892E31B1A47
    mixed = (mixed ^ ((mixed >> 27) & ((1 << 37) - 1))) * -0x6B2FB644ECCEEE15
    mixed = mixed ^ ((mixed >> 31) & ((1 << 33) - 1))
    return (mixed & ((1 << 62) - 1)) % count


def view_of(view: View | str, embedded: Tensor, nearest_points: Tensor, random_points: Tensor | None = None) -> Tensor:
    """What a classifier sees under one of the report's controls.

    Args:
        view: ``artifact`` (signed difference to the nearest real point), ``raw`` (the embedded image), ``nearest`` (the
            nearest real point alone) or ``random`` (signed difference to a random real point).
        embedded: ``(N, *shape)`` float32.
        nearest_points: ``(N, *shape)`` float32.
        random_points: ``(N, *shape)`` float32, points at :func:`random_reals`; needed for ``random`` only.

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
            raise ValueError("View 'random' needs random_points: pass manifold.points(random_reals(...)).")
        return artifact(embedded, random_points)
    raise ValueError(f"There is no view called '{view}'. Valid names: {', '.join(VIEWS)}.")
