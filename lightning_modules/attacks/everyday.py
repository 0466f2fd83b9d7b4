"""What happens to an image that is passed on: other codecs, few colours, a social network, a chain of several."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_modules.attacks.base import Attack, Parameter, Spec, parse_draw
from lightning_modules.attacks.curves import CURVES
from lightning_modules.attacks.geometry import Scaling, resampled
from lightning_modules.attacks.jpeg import Jpeg
from lightning_modules.common.images import to_uint8
from lightning_modules.common.random_streams import draw_uniforms


class _OfFiles(Attack):
    """An attack that only the real codec does; gradients pass through it as if it did nothing (straight through)."""

    def attack_levels(self, levels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Send each image through the codec."""
        if self.strength == 0.0 or not len(seeds):
            return levels
        drawn = self.draw(seeds, min(levels.shape[-2:]))
        pixels = levels.permute(0, 2, 3, 1).contiguous().numpy()
        coded = [
            self.code(image, {name: values[place] for name, values in drawn.items()})
            for place, image in enumerate(pixels)
        ]
        return torch.from_numpy(np.stack(coded)).permute(0, 3, 1, 2)

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Round to 8 bits and send each image through the codec."""
        return self.attack_levels(to_uint8(pixels), seeds).double().div_(255.0)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """The coded images, with the gradient of the images as they were."""
        if self.strength == 0.0:
            return images
        coded = self.attack_levels(to_uint8(images.detach()).cpu(), seeds).to(images.device).float().div_(255.0)
        return images + (coded - images).detach()

    @abstractmethod
    def code(self, image: NDArray[np.uint8], drawn: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Code and decode an image `(H, W, 3)` with its drawn parameters."""


class WebP(_OfFiles):
    """Compress and decompress with Pillow's WebP encoder, each image at its own quality.

    Args:
        quality: 1 (worst) to 100, whole numbers.
    """

    kind = "webp"
    presets: ClassVar[Mapping[str, Spec]] = {"life": {"quality": [50, 60, 70, 80, 90]}}
    curve = CURVES["webp"]

    def __init__(self, quality: Parameter) -> None:
        super().__init__()
        self.quality = parse_draw("webp.quality", quality, 1, 100, "WebP quality", whole=True)

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `quality`, int64 `(n,)`."""
        full = self.quality.at(draw_uniforms(seeds, self.kind, 1)[:, 0])
        return {"quality": np.rint(100.0 - self.strength * (100.0 - full)).astype(np.int64)}

    def code(self, image: NDArray[np.uint8], drawn: Mapping[str, Any]) -> NDArray[np.uint8]:
        """See the base class."""
        file = BytesIO()
        Image.fromarray(image).save(file, "WEBP", quality=int(drawn["quality"]))
        return np.asarray(Image.open(file).convert("RGB"))


class Palette(_OfFiles):
    """Reduce each image to a palette of its own, by median cut, without dithering.

    Args:
        colours: of the palette, 2 to 256, whole numbers.
    """

    kind = "palette"
    presets: ClassVar[Mapping[str, Spec]] = {"life": {"colours": [32, 64, 128, 256]}}
    curve = CURVES["palette"]

    def __init__(self, colours: Parameter) -> None:
        super().__init__()
        self.colours = parse_draw("palette.colours", colours, 2, 256, "colours", whole=True)

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `colours`, int64 `(n,)`."""
        full = self.colours.at(draw_uniforms(seeds, self.kind, 1)[:, 0])
        return {"colours": np.rint(256.0 - self.strength * (256.0 - full)).astype(np.int64)}

    def code(self, image: NDArray[np.uint8], drawn: Mapping[str, Any]) -> NDArray[np.uint8]:
        """See the base class."""
        few = Image.fromarray(image).quantize(int(drawn["colours"]), dither=Image.Dither.NONE)
        return np.asarray(few.convert("RGB"))


class Social(Attack):
    """What a social network does: the image made smaller, compressed as JPEG, and enlarged again by whoever saves it.

    Args:
        share: of height and width that it is made smaller to.
        quality: of the JPEG.
    """

    kind = "social"
    presets: ClassVar[Mapping[str, Spec]] = {"life": {"share": [0.75, 0.875], "quality": [75, 85]}}

    def __init__(self, share: Parameter = 0.75, quality: Parameter = 75) -> None:
        super().__init__()
        self.scaling, self.jpeg = Scaling(share), Jpeg(quality)

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `share` and `quality`."""
        return self.scaling.draw(seeds, size) | self.jpeg.draw(seeds, size)

    def at_strength(self, strength: float) -> Self:
        """Scale both."""
        weaker = super().at_strength(strength)
        weaker.scaling, weaker.jpeg = self.scaling.at_strength(strength), self.jpeg.at_strength(strength)
        return weaker

    def attack_levels(self, levels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Pillow's resizes and the real codec."""
        if self.strength == 0.0:
            return levels
        attacked = levels.clone()
        for some, small, size in self._sizes(seeds, levels.shape):
            part = [_resized(levels[place], small) for place in some.tolist()]
            coded = self.jpeg.attack_levels(torch.stack(part), seeds[some.numpy()])
            attacked[some] = torch.stack([_resized(image, size) for image in coded])
        return attacked

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Round to 8 bits first."""
        return self.attack_levels(to_uint8(pixels), seeds).double().div_(255.0)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Matrices of the resizes, and Kornia's codec between them."""
        if self.strength == 0.0:
            return images
        attacked = images.clone()
        for some, small, size in self._sizes(seeds, images.shape):
            coded = self.jpeg.attack_smoothly(resampled(images[some], small), seeds[some.numpy()])
            attacked[some] = resampled(coded, size)
        return attacked

    def _sizes(
        self, seeds: NDArray[np.int64], shape: Sequence[int]
    ) -> Iterator[tuple[Tensor, tuple[int, int], tuple[int, int]]]:
        """Positions of the images that are made smaller to one size, that size and their own."""
        height, width = shape[-2:]
        share = self.scaling.draw(seeds, min(height, width))["share"]
        for each in np.unique(share):
            some = torch.from_numpy(np.flatnonzero(share == each))
            yield some, (max(1, round(height * float(each))), max(1, round(width * float(each)))), (height, width)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image uint8 `(3, H, W)` with Pillow, bicubically."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    resized = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


class Chain(Attack):
    """One to three attacks one after the other, drawn for each image (the protocol of WILD).

    Args:
        attacks: those to choose from; one may come twice.
        steps: how many, whole numbers from 1 to 5.

    Raises:
        ValueError: no attack.
    """

    kind = "chain"
    _MOST = 5

    def __init__(self, attacks: Sequence[Attack], steps: Parameter = (1, 2, 3)) -> None:
        super().__init__()
        if not attacks:
            raise ValueError("chain: found no attack to choose from, expected at least one")
        self.attacks = tuple(attacks)
        self.steps = parse_draw("chain.steps", steps, 1, self._MOST, "attacks", whole=True)

    @classmethod
    def from_options(cls, options: Spec, make: Callable[[str | Mapping[str, Any]], Attack]) -> Self:
        """Make the attacks to choose from, names or mappings."""
        return super().from_options({**options, "attacks": [make(member) for member in options["attacks"]]}, make)

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `steps`, int64 `(n,)`, and `attack_1` to `attack_5`, positions in `attacks`; later ones are not met."""
        drawn = draw_uniforms(seeds, self.kind, 1 + self._MOST)
        chosen = (drawn[:, 1:] * len(self.attacks)).astype(np.int64)
        steps = self.steps.at(drawn[:, 0]).astype(np.int64)
        return {"steps": steps, **{f"attack_{step + 1}": chosen[:, step] for step in range(self._MOST)}}

    def at_strength(self, strength: float) -> Self:
        """Scale every attack; the choice stays the same."""
        weaker = super().at_strength(strength)
        weaker.attacks = tuple(attack.at_strength(strength) for attack in self.attacks)
        return weaker

    def attack_levels(self, levels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Attack 8-bit images: a file is saved after each."""
        return self._chained(levels, seeds, lambda attack: attack.attack_levels)

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Round to 8 bits first."""
        return self.attack_levels(to_uint8(pixels), seeds).double().div_(255.0)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Attack on the device."""
        return self._chained(images, seeds, lambda attack: attack.attack_smoothly)

    def _chained(
        self, images: Tensor, seeds: NDArray[np.int64], implementation: Callable[[Attack], Callable[..., Tensor]]
    ) -> Tensor:
        drawn = self.draw(seeds, min(images.shape[-2:]))
        for step in range(self._MOST):
            met = np.where(drawn["steps"] > step, drawn[f"attack_{step + 1}"], -1)
            before, images = images, images.clone()
            for position in np.unique(met[met >= 0]):
                chosen = np.flatnonzero(met == position)
                where = torch.from_numpy(chosen).to(images.device)
                images[where] = implementation(self.attacks[position])(before[where], seeds[chosen])
        return images
