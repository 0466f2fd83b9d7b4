"""The 8-bit levels that a file holds: what these methods' own programs read."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.artifacts.embeddings.filters import check_images

_LUMA = (299, 587, 114)  # ITU-R BT.601, in thousandths


def levels(images: Tensor) -> Tensor:
    """Levels 0..255 of images ``(N, 3, H, W)`` in [0, 1], int64."""
    return (check_images(images) * 255).round().clamp(0, 255).long()


def grey_levels(images: Tensor) -> Tensor:
    """Grey levels 0..255, int64 ``(N, H, W)``: luma of ITU-R BT.601, rounded, in whole numbers and so exact."""
    weights = torch.tensor(_LUMA, device=images.device).view(3, 1, 1)
    return ((levels(images) * weights).sum(dim=1) + 500) // 1000


def counts(places: Tensor, cells: int) -> Tensor:
    """How often each of ``cells`` occurs in each row of ``places`` (N, n), int64 ``(N, cells)``; others are left out.

    In whole numbers, so that no device's order of summation matters.
    """
    rows = torch.arange(len(places), device=places.device)[:, None] * cells
    inside = (places >= 0) & (places < cells)
    return torch.bincount((places + rows)[inside], minlength=len(places) * cells).view(len(places), cells)


def rings(shape: tuple[int, int], centre: tuple[float, float], device: torch.device) -> Tensor:
    """Distance of each pixel from a point, float64 ``(H, W)``."""
    rows, columns = (torch.arange(size, dtype=torch.float64, device=device) for size in shape)
    return torch.hypot((rows - centre[0])[:, None], (columns - centre[1])[None])


def ring_means(values: Tensor, ring: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean of ``(N, H, W)`` over each of ``count`` rings, ``(N, count)``, 0 where a ring is empty; and their sizes.

    ``ring`` (H, W) is the number of each pixel's ring; pixels of other numbers are left out. An image is summed up in
    the same order whatever its batch.
    """
    inside = (ring >= 0) & (ring < count)
    ring = torch.where(inside, ring, count).flatten()  # the others' sums are cut off
    sizes = torch.bincount(ring, minlength=count + 1)[:count]
    sums = values.new_zeros(len(values), count + 1)
    if values.device.type == "cpu":
        sums.scatter_add_(1, ring.expand(len(values), -1), values.flatten(1))
    else:  # slow on a CPU; on CUDA the one of the two that can be deterministic
        sums.index_add_(1, ring, values.flatten(1))
    return sums[:, :count] / sizes.clamp(min=1), sizes
