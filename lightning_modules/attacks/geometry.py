"""Attacks that move pixels: crops, shifts, flips, changes of size and of aspect, rotations.

`real` is Pillow's resampling of 8-bit images, one by one. `differentiable` computes the same sums: all but the rotation
act on rows and columns apart, as two products with matrices of Pillow's own weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_modules.attacks.base import Attack, Parameter, Spec, parse_draw
from lightning_modules.attacks.curves import CURVES
from lightning_modules.common.images import to_uint8
from lightning_modules.common.random_streams import draw_uniforms

FILTERS = {
    "nearest": (Image.Resampling.NEAREST, 0.0),
    "bilinear": (Image.Resampling.BILINEAR, 1.0),
    "bicubic": (Image.Resampling.BICUBIC, 2.0),
}
"""Resampling filters: Pillow's constant and how far they reach, in source pixels of an enlargement."""

Side = tuple[float, float, int]
"""One resampling along one side: from `start` to `end` in source pixels, into so many pixels."""


def resampling_matrix(length: int, side: Side, filter_name: str = "bicubic") -> NDArray[np.float64]:
    """Weights `(size, length)` by which Pillow resamples a side of `length` pixels; each row sums to 1."""
    start, end, size = side
    scale = (end - start) / size
    stretch = max(scale, 1.0)
    reach = FILTERS[filter_name][1] * stretch
    centres = start + (np.arange(size) + 0.5) * scale
    if filter_name == "nearest":
        added = np.add.accumulate([start + 0.5 * scale] + [scale] * (size - 1))  # which rounds as Pillow's sum does
        picked: NDArray[np.float64] = np.eye(length)[added.astype(np.int64)]
        return picked
    places = np.arange(length)[None] + 0.5
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)[:, None]
    last = np.minimum((centres + reach + 0.5).astype(np.int64), length)[:, None]
    weights = _kernel(np.abs(places - centres[:, None]) / stretch, filter_name)
    weights[(np.arange(length)[None] < first) | (np.arange(length)[None] >= last)] = 0.0
    normalised: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def _kernel(distance: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    if name == "bilinear":
        return np.maximum(0.0, 1.0 - distance)
    near = (1.5 * distance - 2.5) * distance**2 + 1.0  # Keys's cubic with a = -1/2, Pillow's
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))


@lru_cache(maxsize=4096)
def _matrix(length: int, sides: tuple[Side, ...], filter_name: str) -> Tensor:
    """Several resamplings one after the other, as one matrix float32."""
    whole = np.eye(length)
    for side in sides:
        whole = resampling_matrix(len(whole), side, filter_name) @ whole
    return torch.from_numpy(whole).float()


def resampled(images: Tensor, size: tuple[int, int], filter_name: str = "bicubic") -> Tensor:
    """Images `(n, 3, H, W)` resized as Pillow does it, with gradients, in [0, 1]."""
    height, width = images.shape[-2:]
    down = _matrix(height, ((0, height, size[0]),), filter_name).to(images)
    across = _matrix(width, ((0, width, size[1]),), filter_name).to(images)
    return (down @ (images @ across.T)).clamp(0.0, 1.0)


class Resampling(Attack):
    """An attack that is one or several resizes of a box of the image, and ends at its own size.

    A subclass says which (`steps`). Boxes have whole pixels, as tools cut them.
    """

    filter: str = "bicubic"

    @abstractmethod
    def steps(self, drawn: Mapping[str, Any], height: int, width: int) -> Sequence[tuple[Side, Side]]:
        """Resizes of one image, rows and columns, with its drawn parameters; none leaves it as it is."""

    def _steps(self, seeds: NDArray[np.int64], shape: Sequence[int]) -> list[tuple[tuple[Side, ...], tuple[Side, ...]]]:
        height, width = shape[-2:]
        drawn = self.draw(seeds, min(height, width))
        found = []
        for place in range(len(seeds)):
            steps = self.steps({name: values[place] for name, values in drawn.items()}, height, width)
            found.append((tuple(rows for rows, _ in steps), tuple(columns for _, columns in steps)))
        return found

    def attack_levels(self, levels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Resize with Pillow."""
        attacked = levels.clone()
        constant = FILTERS[self.filter][0]
        for image, result, (rows, columns) in zip(levels, attacked, self._steps(seeds, levels.shape), strict=True):
            if not rows:
                continue
            picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
            for (top, bottom, height), (left, right, width) in zip(rows, columns, strict=True):
                picture = picture.resize((width, height), constant, box=(left, top, right, bottom))
            result.copy_(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
        return attacked

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Round to 8 bits and resize."""
        return self.attack_levels(to_uint8(pixels), seeds).double().div_(255.0)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Multiply by the matrices of all resizes together."""
        height, width = images.shape[-2:]
        plans = self._steps(seeds, images.shape)
        down = torch.stack([_matrix(height, rows, self.filter) for rows, _ in plans]).to(images)
        across = torch.stack([_matrix(width, columns, self.filter) for _, columns in plans]).to(images)
        rows = torch.bmm(images.flatten(1, 2), across.mT).view_as(images)
        return torch.matmul(down[:, None], rows).clamp(0.0, 1.0)


class Crop(Resampling):
    """Cut a part of the image out, at a random place, and enlarge it to the size of the whole.

    Args:
        kept: share of height and width that is kept, above 0 to 1.
    """

    kind = "crop"
    presets: ClassVar[Mapping[str, Spec]] = {"life": {"kept": {"uniform": [0.85, 1.0]}}}
    curve = CURVES["crop"]

    def __init__(self, kept: Parameter) -> None:
        super().__init__()
        self.kept = parse_draw("crop.kept", kept, 0.05, 1.0, "share of height and width")

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `kept`, and `top` and `left` in [0, 1): where the part lies in the room there is."""
        drawn = draw_uniforms(seeds, self.kind, 3)
        return {
            "kept": 1.0 - self.strength * (1.0 - self.kept.at(drawn[:, 0])),
            "top": drawn[:, 1],
            "left": drawn[:, 2],
        }

    def steps(self, drawn: Mapping[str, Any], height: int, width: int) -> Sequence[tuple[Side, Side]]:
        """See the base class."""
        sides = [_part(length, drawn["kept"], drawn[edge]) for length, edge in ((height, "top"), (width, "left"))]
        if sides == [(0, height), (0, width)]:
            return []
        return [((*sides[0], height), (*sides[1], width))]


def _part(length: int, kept: float, place: float) -> tuple[int, int]:
    """First and last pixel of a part of a side."""
    size = max(1, round(length * float(kept)))
    first = int(float(place) * (length - size + 1))
    return first, first + size


class Aspect(Resampling):
    """Cut a part of one side, height or width by chance, and stretch the rest to the size of the whole.

    Args:
        kept: share of that side that is kept, above 0 to 1: the aspect changes by one over it.
    """

    kind = "aspect"
    presets: ClassVar[Mapping[str, Spec]] = {"life": {"kept": {"uniform": [0.88, 1.0]}}}
    curve = CURVES["aspect"]

    def __init__(self, kept: Parameter) -> None:
        super().__init__()
        self.kept = parse_draw("aspect.kept", kept, 0.05, 1.0, "share of the side that is stretched")

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `kept`, `upright` (whether the height is stretched) and `place` in [0, 1)."""
        drawn = draw_uniforms(seeds, self.kind, 3)
        kept = 1.0 - self.strength * (1.0 - self.kept.at(drawn[:, 0]))
        return {"kept": kept, "upright": drawn[:, 1] < 0.5, "place": drawn[:, 2]}

    def steps(self, drawn: Mapping[str, Any], height: int, width: int) -> Sequence[tuple[Side, Side]]:
        """See the base class."""
        length = height if drawn["upright"] else width
        first, last = _part(length, drawn["kept"], drawn["place"])
        if last - first == length:
            return []
        whole: list[Side] = [(0, height, height), (0, width, width)]
        whole[0 if drawn["upright"] else 1] = (first, last, length)
        return [(whole[0], whole[1])]


class Scaling(Resampling):
    """Make the image smaller and enlarge it again.

    Args:
        share: of height and width that it is made smaller to, above 0 to 1.
        filter: `bicubic`, `bilinear` or `nearest`.

    Raises:
        ValueError: a share or a filter there is not.
    """

    kind = "scaling"
    presets: ClassVar[Mapping[str, Spec]] = {"life": {"share": {"uniform": [0.5, 1.0]}}}
    curve = CURVES["scaling"]

    def __init__(self, share: Parameter, filter: str = "bicubic") -> None:
        super().__init__()
        self.share = parse_draw("scaling.share", share, 0.05, 1.0, "share of height and width")
        if filter not in FILTERS:
            raise ValueError(f"scaling.filter: found {filter!r}, expected one of {', '.join(FILTERS)}")
        self.filter = filter

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `share`, float64 `(n,)`."""
        return {"share": 1.0 - self.strength * (1.0 - self.share.at(draw_uniforms(seeds, self.kind, 1)[:, 0]))}

    def steps(self, drawn: Mapping[str, Any], height: int, width: int) -> Sequence[tuple[Side, Side]]:
        """See the base class."""
        low, narrow = (max(1, round(length * float(drawn["share"]))) for length in (height, width))
        if (low, narrow) == (height, width):
            return []
        return [((0, height, low), (0, width, narrow)), ((0, low, height), (0, narrow, width))]


class _Moved(Attack):
    """An attack that puts each pixel elsewhere, without computing with it."""

    @abstractmethod
    def sources(self, seeds: NDArray[np.int64], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Rows `(n, H)` and columns `(n, W)` from which the pixels come."""

    def _moved(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        n, _, height, width = images.shape
        rows, columns = (index.to(images.device) for index in self.sources(seeds, height, width))
        which = torch.arange(n, device=images.device)[:, None, None, None]
        channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
        return images[which, channels, rows[:, None, :, None], columns[:, None, None, :]]

    def attack_levels(self, levels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Move the bytes."""
        return self._moved(levels, seeds)

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Move the pixels."""
        return self._moved(pixels, seeds)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Move the pixels."""
        return self._moved(images, seeds)


class Shift(_Moved):
    """Move the image by whole pixels in a random direction, one of eight; its edge is repeated.

    Args:
        pixels: whole numbers of at least 0; half of them are an edge lost on either side.
    """

    kind = "shift"
    presets: ClassVar[Mapping[str, Spec]] = {"life": {"pixels": [1, 2]}}
    curve = CURVES["shift"]
    _DIRECTIONS = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)])

    def __init__(self, pixels: Parameter) -> None:
        super().__init__()
        self.pixels = parse_draw("shift.pixels", pixels, 0, 4096, "pixels", whole=True)

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `down` and `right`, int64 `(n,)`, in pixels."""
        drawn = draw_uniforms(seeds, self.kind, 2)
        pixels = np.rint(self.strength * self.pixels.at(drawn[:, 0])).astype(np.int64)
        way = self._DIRECTIONS[(drawn[:, 1] * len(self._DIRECTIONS)).astype(np.int64)]
        return {"down": pixels * way[:, 0], "right": pixels * way[:, 1]}

    def sources(self, seeds: NDArray[np.int64], height: int, width: int) -> tuple[Tensor, Tensor]:
        """See the base class."""
        drawn = {name: torch.from_numpy(values)[:, None] for name, values in self.draw(seeds, height).items()}
        rows = (torch.arange(height)[None] - drawn["down"]).clamp(0, height - 1)
        return rows, (torch.arange(width)[None] - drawn["right"]).clamp(0, width - 1)


class Flip(_Moved):
    """Mirror the image, left for right. The strength is the chance that it happens."""

    kind = "flip"
    presets: ClassVar[Mapping[str, Spec]] = {"life": {}}

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `flipped`, bool `(n,)`."""
        return {"flipped": draw_uniforms(seeds, self.kind, 1)[:, 0] < self.strength}

    def sources(self, seeds: NDArray[np.int64], height: int, width: int) -> tuple[Tensor, Tensor]:
        """See the base class."""
        flipped = torch.from_numpy(self.draw(seeds, height)["flipped"])[:, None]
        columns = torch.arange(width)[None]
        rows = torch.arange(height).expand(len(seeds), -1)
        return rows, torch.where(flipped, columns.flip(1), columns)


class Rotation(Attack):
    """Turn the image about its centre, clockwise or not by chance, bilinearly; its edge is repeated in the corners.

    Args:
        degrees: of the turn, 0 to 180.
    """

    kind = "rotation"
    presets: ClassVar[Mapping[str, Spec]] = {"life": {"degrees": {"uniform": [0.0, 3.0]}}}
    curve = CURVES["rotation"]

    def __init__(self, degrees: Parameter) -> None:
        super().__init__()
        self.degrees = parse_draw("rotation.degrees", degrees, 0.0, 180.0, "degrees")

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `degrees`, float64 `(n,)`, clockwise above 0."""
        drawn = draw_uniforms(seeds, self.kind, 2)
        return {"degrees": self.strength * self.degrees.at(drawn[:, 0]) * np.where(drawn[:, 1] < 0.5, -1.0, 1.0)}

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Sample in float64, image by image."""
        parts = [self._turned(pixels[i : i + 1], seeds[i : i + 1]) for i in range(len(seeds))]
        return torch.cat(parts) if parts else pixels

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Sample the batch."""
        return self._turned(images, seeds)

    def _turned(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        height, width = images.shape[-2:]
        turn = torch.from_numpy(np.deg2rad(self.draw(seeds, min(height, width))["degrees"])).to(images)
        cosine, sine = turn.cos()[:, None, None], turn.sin()[:, None, None]
        y = (torch.arange(height, device=images.device, dtype=images.dtype) - (height - 1) / 2)[None, :, None]
        x = (torch.arange(width, device=images.device, dtype=images.dtype) - (width - 1) / 2)[None, None, :]
        column, row = cosine * x + sine * y, cosine * y - sine * x
        grid = torch.stack([2.0 * column / width, 2.0 * row / height], dim=-1)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
