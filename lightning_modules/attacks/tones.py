"""Attacks on the tones of an image: brightness, contrast, gamma, saturation; and what is laid over it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.attacks.base import Attack, Draw, Parameter, Spec, parse_draw
from lightning_modules.attacks.curves import CURVES
from lightning_modules.common.random_streams import draw_uniforms

_GREY = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow's mode L
_AROUND: Spec = {"factor": {"uniform": [0.8, 1.25]}}


class _Toned(Attack):
    """An attack with one factor, 1 for nothing."""

    factor: Draw

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `factor`, float64 `(n,)`."""
        return {"factor": 1.0 + self.strength * (self.factor.at(draw_uniforms(seeds, self.kind, 1)[:, 0]) - 1.0)}

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Compute in float64."""
        return self._toned(pixels, seeds)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Compute on the device and clamp."""
        return self._toned(images, seeds).clamp(0.0, 1.0)

    def _toned(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        factor = torch.from_numpy(self.draw(seeds, min(images.shape[-2:]))["factor"]).to(images)
        return self.tone(images, factor[:, None, None, None])

    @abstractmethod
    def tone(self, images: Tensor, factor: Tensor) -> Tensor:
        """Images with a factor `(n, 1, 1, 1)` each."""


class Brightness(_Toned):
    """Multiply all values by a factor.

    Args:
        factor: 0 (black) to 10.
    """

    kind = "brightness"
    presets: ClassVar[Mapping[str, Spec]] = {"life": _AROUND}
    curve = CURVES["brightness"]

    def __init__(self, factor: Parameter) -> None:
        super().__init__()
        self.factor = parse_draw("brightness.factor", factor, 0.0, 10.0, "factor")

    def tone(self, images: Tensor, factor: Tensor) -> Tensor:
        """See the base class."""
        return images * factor


class Contrast(_Toned):
    """Move all values away from the image's mean grey, or to it, by a factor.

    Args:
        factor: 0 (a flat image) to 10.
    """

    kind = "contrast"
    presets: ClassVar[Mapping[str, Spec]] = {"life": _AROUND}
    curve = CURVES["contrast"]

    def __init__(self, factor: Parameter) -> None:
        super().__init__()
        self.factor = parse_draw("contrast.factor", factor, 0.0, 10.0, "factor")

    def tone(self, images: Tensor, factor: Tensor) -> Tensor:
        """See the base class."""
        mean = torch.stack([grey.mean() for grey in _grey(images)])[:, None, None, None]
        return mean + (images - mean) * factor


class Gamma(_Toned):
    """Raise all values to a power.

    Args:
        factor: the power, 0.1 to 10; above 1 darkens.
    """

    kind = "gamma"
    presets: ClassVar[Mapping[str, Spec]] = {"life": _AROUND}
    curve = CURVES["gamma"]

    def __init__(self, factor: Parameter) -> None:
        super().__init__()
        self.factor = parse_draw("gamma.factor", factor, 0.1, 10.0, "power")

    def tone(self, images: Tensor, factor: Tensor) -> Tensor:
        """See the base class; black has a slope of its own, since that of a power below 1 has no bound there."""
        inside = images.clamp(1e-4, 1.0)
        return torch.where(images < 1e-4, images, inside**factor)


class Saturation(_Toned):
    """Move colours away from grey, or to it, by a factor. A grey image stays as it is.

    Args:
        factor: 0 (a grey image) to 10.
    """

    kind = "saturation"
    presets: ClassVar[Mapping[str, Spec]] = {"life": {"factor": {"uniform": [0.5, 1.5]}}}
    curve = CURVES["saturation"]

    def __init__(self, factor: Parameter) -> None:
        super().__init__()
        self.factor = parse_draw("saturation.factor", factor, 0.0, 10.0, "factor")

    def tone(self, images: Tensor, factor: Tensor) -> Tensor:
        """See the base class."""
        grey = _grey(images)
        return grey + (images - grey) * factor


def _grey(images: Tensor) -> Tensor:
    red, green, blue = _GREY
    return red * images[:, :1] + green * images[:, 1:2] + blue * images[:, 2:]


class _Laid(Attack):
    """An attack that lays a grey of some opacity over a part of the image."""

    @abstractmethod
    def layer(self, drawn: Mapping[str, NDArray[Any]], height: int, width: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Opacity `(n, H, W)` and grey `(n,)`, both in [0, 1]."""

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Blend in float64."""
        return self._blended(pixels, seeds)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Blend on the device."""
        return self._blended(images, seeds)

    def _blended(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        height, width = images.shape[-2:]
        opacity, grey = self.layer(self.draw(seeds, min(height, width)), height, width)
        over = torch.from_numpy(opacity).to(images)[:, None]
        return images * (1.0 - over) + over * torch.from_numpy(grey).to(images)[:, None, None, None]


class Overlay(_Laid):
    """Lay a bar of one grey over a part of the image, such as the box of a caption: twice as wide as high.

    Args:
        area: share of the image that it covers, 0 to 1.
        opacity: 0 to 1.
    """

    kind = "overlay"
    presets: ClassVar[Mapping[str, Spec]] = {
        "life": {"area": {"uniform": [0.02, 0.1]}, "opacity": {"uniform": [0.5, 1.0]}}
    }
    curve = CURVES["overlay"]

    def __init__(self, area: Parameter, opacity: Parameter = 1.0) -> None:
        super().__init__()
        self.area = parse_draw("overlay.area", area, 0.0, 1.0, "share of the image")
        self.opacity = parse_draw("overlay.opacity", opacity, 0.0, 1.0, "opacity")

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `area`, `opacity`, `grey`, and `top` and `left` in [0, 1)."""
        drawn = draw_uniforms(seeds, self.kind, 5)
        found = {"area": self.area.at(drawn[:, 0]), "opacity": self.strength * self.opacity.at(drawn[:, 1])}
        return found | {"grey": drawn[:, 2], "top": drawn[:, 3], "left": drawn[:, 4]}

    def layer(self, drawn: Mapping[str, NDArray[Any]], height: int, width: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """See the base class."""
        opacity = np.zeros((len(drawn["area"]), height, width))
        for place, one in enumerate(opacity):
            area = float(drawn["area"][place]) * height * width
            wide = min(width, max(1, round((2.0 * area) ** 0.5)))
            high = min(height, max(1, round(area / wide)))
            if round(area) < 1:
                continue
            top = int(drawn["top"][place] * (height - high + 1))
            left = int(drawn["left"][place] * (width - wide + 1))
            one[top : top + high, left : left + wide] = drawn["opacity"][place]
        return opacity, drawn["grey"]


class Border(_Laid):
    """Draw a frame of one grey over the edge of the image.

    Args:
        share: width of the frame as a share of the shorter side, 0 to 0.5; at least a pixel where it is above 0.
    """

    kind = "border"
    presets: ClassVar[Mapping[str, Spec]] = {"life": {"share": {"uniform": [0.02, 0.07]}}}
    curve = CURVES["border"]

    def __init__(self, share: Parameter) -> None:
        super().__init__()
        self.share = parse_draw("border.share", share, 0.0, 0.5, "share of the shorter side")

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `pixels`, int64 `(n,)`, and `grey` in [0, 1)."""
        drawn = draw_uniforms(seeds, self.kind, 2)
        share = self.strength * self.share.at(drawn[:, 0])
        return {"pixels": np.where(share > 0, np.maximum(1, np.rint(share * size)), 0).astype(int), "grey": drawn[:, 1]}

    def layer(self, drawn: Mapping[str, NDArray[Any]], height: int, width: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """See the base class."""
        y, x = np.arange(height)[:, None], np.arange(width)[None]
        edge = np.minimum(np.minimum(y, height - 1 - y), np.minimum(x, width - 1 - x))
        return (edge[None] < drawn["pixels"][:, None, None]).astype(np.float64), drawn["grey"]
