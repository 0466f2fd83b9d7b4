"""What happened to an image after it was made, as far as a key is looked for behind it: blur or a change of size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Filter = Callable[[Tensor], Tensor]
"""Images `(n, 3, H, W)` to images of the same shape, differentiable."""

NONE = "none"
TELLING = 0.75
"""Share of the residual that a filter has to leave at most to be believed. The best filter of unblurred images,
attacked or not, leaves 0.9 and more on average."""


def gaussian(deviation: float) -> Filter:
    """Gaussian blur of a standard deviation in pixels."""
    reach = max(1, math.ceil(4.0 * deviation))

    def blurred(images: Tensor) -> Tensor:
        places = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
        weights = torch.exp(-places.square() / (2.0 * deviation**2))
        weights = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)
        edge = min(reach, min(images.shape[-2:]) - 1)  # as far as a mirrored edge reaches
        rest = reach - edge
        padded = F.pad(F.pad(images, (edge,) * 4, mode="reflect"), (rest,) * 4, mode="replicate")
        across = F.conv2d(padded, weights, groups=images.shape[1])
        return F.conv2d(across, weights.mT, groups=images.shape[1])

    return blurred


def resized(share: float) -> Filter:
    """Made smaller to a share of the side and back, bicubically, as a preview of an image is."""

    def there_and_back(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        small = (max(1, round(height * share)), max(1, round(width * share)))
        smaller = F.interpolate(images, size=small, mode="bicubic", antialias=True)
        return F.interpolate(smaller, size=(height, width), mode="bicubic", antialias=True).clamp(0.0, 1.0)

    return there_and_back


FILTERS: Mapping[str, Filter] = {
    **{f"blur_{deviation:g}": gaussian(deviation) for deviation in (0.5, 0.7, 1.0, 1.4, 2.0)},
    **{f"resized_{share:g}": resized(share) for share in (0.5, 0.625, 0.75)},
}


@torch.no_grad()
def likeliest_filters(made: Tensor, images: Tensor, filters: Mapping[str, Filter] = FILTERS) -> list[str]:
    """Name the filter of each image, or `none`.

    An answer that is right for the most part shows, passed through the filter that the image met, nearly the image.
    No filter is named unless it explains much of what is left without any.

    Args:
        made: images `(n, 3, H, W)` in [0, 1] as answers show them.
        images: those that were decoded.
        filters: to choose from.
    """
    residual = [_residual(made, images), *(_residual(each(made), images) for each in filters.values())]
    shares = torch.stack(residual[1:], dim=1) / residual[0].clamp_min(1e-12)[:, None]
    best, where = shares.min(dim=1)
    names = list(filters)
    return [names[int(place)] if float(share) < TELLING else NONE for share, place in zip(best, where, strict=True)]


def _residual(made: Tensor, images: Tensor) -> Tensor:
    return (made - images).square().flatten(1).mean(dim=1)
