"""Putting an image back as it was made: mirrored, shifted, resized or turned images, tried one after the other.

Small steps on top of the best try (`fine`) find images that were cropped and turned, say. They are resampled from the
image as it is, by both matrices at once.

Verdicts test every try, corrected for their number (`metrics.evidence.share_of`). Where one answer is needed, as for
the share of bits that are right, it is that of one try; no key has a part in that choice. The network's `certainty`
speaks for a try. A network is too sure of images unlike those of its training, so a try has to be surer than the image
as it is by `MARGIN`; with `refined` and `hybrid` the image that the answer makes has to explain what was read, too
(`plausibility`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.common.tables import check_name
from lightning_modules.fingerprints.decoders.post_processing import FILTERS


@dataclass(frozen=True)
class Registration:
    """One way to put images back: mirror, move, resize about the centre and turn, in this order.

    Attributes:
        down, right: Move by so many pixels.
        part_down, part_right: Move by parts of 1/32 of the image's side, beside that.
        zoom: Below 1 the image becomes smaller, as one that was cropped and enlarged has to be, above 1 larger, as one
            inside a frame.
        degrees: Turn.
        mirrored: Left for right.
    """

    down: float = 0.0
    right: float = 0.0
    part_down: float = 0.0
    part_right: float = 0.0
    zoom: float = 1.0
    degrees: float = 0.0
    mirrored: bool = False

    def __call__(self, images: Tensor, ground: Tensor | None = None) -> Tensor:
        """Images `(n, 3, H, W)` to images of the same shape; see `resampled` for the `ground`."""
        if self == Registration():
            return images
        if self == MIRRORED:
            return images.flip(-1)
        return resampled(images, self.matrix(*images.shape[-2:]).expand(len(images), -1, -1), ground)

    def matrix(self, height: int, width: int) -> Tensor:
        """Where a place of the new image lies in the old one, float64 `(3, 3)`; sides go from -1 to 1."""
        turn = math.radians(self.degrees)
        cosine, sine = math.cos(turn) / self.zoom, math.sin(turn) / self.zoom
        right = self.part_right / 16.0 + 2.0 * self.right / width
        down = self.part_down / 16.0 + 2.0 * self.down / height
        found = torch.tensor([[cosine, sine, -right], [-sine, cosine, -down], [0.0, 0.0, 1.0]], dtype=torch.float64)
        if self.mirrored:
            found[0] *= -1.0
        return found


def resampled(images: Tensor, matrices: Tensor, ground: Tensor | None = None) -> Tensor:
    """Resample images `(n, 3, H, W)` bicubically by one matrix each `(n, 3, 3)` (`Registration.matrix`).

    What lies outside the old image is taken from the `ground`, an image `(1, 3, H, W)`; without one the edge is
    repeated. A key is read far better off a likely edge: of 40 images of `ldm64_emoji` that were cropped to 90 % and
    put back exactly, 70 % name their user among 50 with edges repeated, 100 % with that of the mean latent's image.
    """
    grid = _grid(matrices, images)
    found = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0.0, 1.0)
    if ground is None:
        return found
    return torch.where(_inside(grid), found, ground.to(found))


@torch.no_grad()
def plausibility(made: Tensor, images: Tensor, matrices: Tensor) -> Tensor:
    """How well images that were made, and moved since, explain given ones, in nats but for a constant, float64 `(n,)`.

    It is the Gaussian log likelihood of the mean residual within the picture, of a variance that fits it best, as if
    there were as many pixels in each picture. An image that lies as it was made, or mirrored, may have met any blur or
    resizing as well (`post_processing.FILTERS`), one that was moved no more than resampling costs (`SOFTENED`):
    otherwise blurred images are taken for moved ones.

    Args:
        made: images `(n, 3, H, W)` in [0, 1] as a reading shows them.
        images: those that were read, `(n, 3, H, W)`.
        matrices: of the registrations that they were read by, `(n, 3, 3)`.
    """
    weight = min(math.prod(images.shape[-2:]), MOST_PIXELS) / PIXELS_A_NAT
    with torch.autocast(images.device.type, enabled=False):
        grid = _grid(torch.linalg.inv(matrices), images)
        inside = _inside(grid).to(images)
        moved = F.grid_sample(made, grid, mode="bicubic", padding_mode="border", align_corners=False)
        residual = torch.minimum(*(_residual(each, images, inside) for each in (moved, FILTERS[SOFTENED](moved))))
        in_place = (matrices.abs() == torch.eye(3).to(matrices)).all(dim=2).all(dim=1).to(images.device)
        if bool(in_place.any()):
            for each in FILTERS.values():
                left = _residual(each(moved[in_place]), images[in_place], inside[in_place])
                residual[in_place] = torch.minimum(residual[in_place], left)
    return -weight * torch.log(residual + LEAST_RESIDUAL)


def _residual(shown: Tensor, images: Tensor, inside: Tensor) -> Tensor:
    """Mean squared difference over the places inside `(n, 1, H, W)`, float64 `(n,)`; nan where there is none."""
    left = ((shown - images).square().mean(dim=1, keepdim=True) * inside).flatten(1).sum(dim=1).double()
    return left / inside.flatten(1).sum(dim=1).double()


def _grid(matrices: Tensor, images: Tensor) -> Tensor:
    """Where in the old images each place of new ones lies, `(n, H, W, 2)`; half precision would be pixels wrong."""
    with torch.autocast(images.device.type, enabled=False):
        return F.affine_grid(matrices[:, :2].to(images), list(images.shape), align_corners=False)


def _inside(grid: Tensor) -> Tensor:
    """Which places lie within the old image, bool `(n, 1, H, W)`."""
    return (grid.abs() <= 1.0).all(dim=-1)[:, None]


MIRRORED = Registration(mirrored=True)
MARGIN = 6.0
"""Nats. Of 100 clean images with 64 bits 32 tries together lose 14 without a margin, 3 with 4 nats, 1 with 8."""
PIXELS_A_NAT, MOST_PIXELS = 100, 64 * 64
"""Pixels that count as two independent ones, since what an answer gets wrong spreads over neighbours; and how many
count at most, since in larger images it spreads further. Chosen on 128 images of `ldm64` and 24 of `ldm64_emoji`, under
nine and three attacks; no table is made of these images."""
SOFTENED = "blur_0.5"
"""The filter, of `post_processing.FILTERS`, that stands for resampling."""
LEAST_RESIDUAL = 1e-4
"""Mean square below which residuals tell nothing apart: two and a half grey levels."""

_FRAMED = [1.06**step for step in range(1, 9)]
"""Zooms for a picture in the middle of a frame. A black frame around a garment on black has no edge to be
cut off at. In frames of 1 to 8 px around 32 px 91 to 99 % of images of `ldm64` are named among 50 users; steps of 1.09
leave 91 to 95 % in most."""
_CROPPED = [
    Registration(part_down=y * (1 - zoom) * 16, part_right=x * (1 - zoom) * 16, zoom=zoom)
    for zoom, steps in ((0.95, (-1.0, 0.0, 1.0)), (0.9, (-1.0, -0.5, 0.0, 0.5, 1.0)))
    for y in steps
    for x in steps
]
_AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
REGISTRATIONS: Mapping[str, list[Registration]] = {
    "flip": [MIRRORED],
    "shift": [Registration(down=y, right=x) for y, x in _AROUND],
    "zoom": _CROPPED + [Registration(zoom=zoom) for zoom in _FRAMED],
    "turn": [Registration(degrees=degrees) for degrees in (-3.0, -1.5, 1.5, 3.0)],
}
"""Tries by name, each of the image as it is."""
MIRRORED_TOO = [replace(each, mirrored=True) for each in _CROPPED]
"""What `flip` and `zoom` try together, beside what each tries: images that were mirrored and cropped."""
FINE = "fine"
REFINEMENTS = [
    *(Registration(down=step * y, right=step * x) for step in (1.0, 0.5) for y, x in _AROUND),
    *(Registration(zoom=zoom) for zoom in (0.97, 1.03)),
    *(Registration(degrees=degrees) for degrees in (-1.5, 1.5)),
]
"""What `fine` tries on top of the best of the others, for images to which more than one thing was done."""


def registrations(names: Iterable[str]) -> list[Registration]:
    """The tries of some names, the image as it is first; `fine` adds none here.

    Raises:
        ValueError: a name there is not.
    """
    wanted = [check_name("registration", name, [*REGISTRATIONS, FINE]) for name in names]
    tried = [each for name in wanted if name != FINE for each in REGISTRATIONS[name]]
    return [Registration(), *tried, *(MIRRORED_TOO if {"flip", "zoom"} <= set(wanted) else [])]


def certainty(logits: Tensor) -> Tensor:
    """How much log odds `(n, m)` say of all bits together, in nats, float64 `(n,)`: m log 2 less their entropy."""
    sure = logits.double().abs()
    other = torch.sigmoid(-sure)
    entropy = F.softplus(-sure) + other * sure
    return (torch.log(torch.tensor(2.0, dtype=torch.float64)) - entropy).sum(dim=1)
