"""JPEG compression (Nie et al. 2023, Sec. 4: quality 80, 70, 60 or 50): the real codec, and a differentiable one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from io import BytesIO
from typing import Any, ClassVar

import numpy as np
import torch
from kornia.enhance import jpeg_codec_differentiable
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_modules.attacks.base import Attack, Parameter, Spec, parse_draw
from lightning_modules.attacks.curves import CURVES
from lightning_modules.common.images import to_uint8
from lightning_modules.common.random_streams import draw_uniforms

SUBSAMPLINGS = ("4:2:0", "4:4:4")
_PAPER: Spec = {"quality": [80, 70, 60, 50]}


class Jpeg(Attack):
    """Compress and decompress each image at its own quality.

    `real` is Pillow's encoder and decoder (libjpeg) on 8-bit pixels; torchvision's, which take half the time, do it
    where they give the same bytes (`torchvision_agrees`). `differentiable` is Kornia's codec (Reich et al.
    2024), which smooths the rounding of coefficients and knows 4:2:0 alone: with `subsampling="4:4:4"` it still
    halves the colours, so it is harsher on them than the real codec. `codec_table.py` measures how far the two differ.

    The strength s of `at_strength` turns a quality q into `round(100 - s (100 - q))`; at 0 there is no compression.

    Args:
        quality: 1 (worst) to 100, whole numbers.
        subsampling: of the real codec: `4:2:0`, what most software writes, or `4:4:4`.

    Raises:
        ValueError: a quality or a subsampling there is not.
    """

    kind = "jpeg"
    presets: ClassVar[Mapping[str, Spec]] = {
        **dict.fromkeys(("paper", "paper-scaled", "paper-enlarged"), _PAPER),
        "paper-strongest": {"quality": 50},
        "life": {"quality": [50, 60, 70, 80, 90]},
    }
    curve = CURVES["jpeg"]

    def __init__(self, quality: Parameter, subsampling: str = "4:2:0") -> None:
        super().__init__()
        self.quality = parse_draw("jpeg.quality", quality, 1, 100, "JPEG quality", whole=True)
        if subsampling not in SUBSAMPLINGS:
            raise ValueError(f"jpeg.subsampling: found {subsampling!r}, expected one of {', '.join(SUBSAMPLINGS)}")
        self.subsampling = subsampling

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `quality`, int64 `(n,)`."""
        full = self.quality.at(draw_uniforms(seeds, self.kind, 1)[:, 0])
        return {"quality": np.rint(100.0 - self.strength * (100.0 - full)).astype(np.int64)}

    def attack_levels(self, levels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Send each image through the codec."""
        if self.strength == 0.0 or not len(seeds):
            return levels
        qualities = self.draw(seeds, min(levels.shape[-2:]))["quality"].tolist()
        if self.subsampling == "4:2:0" and torchvision_agrees():
            return torch.stack([torchvision_jpeg(image, q) for image, q in zip(levels, qualities, strict=True)])
        pixels = levels.permute(0, 2, 3, 1).numpy()
        coded = [pillow_jpeg(image, q, self.subsampling) for image, q in zip(pixels, qualities, strict=True)]
        return torch.from_numpy(np.stack(coded)).permute(0, 3, 1, 2)

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Round to 8 bits and send each image through the codec."""
        if self.strength == 0.0:
            return pixels
        return self.attack_levels(to_uint8(pixels), seeds).double().div_(255.0)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Send the batch through Kornia's codec, one quality per image."""
        if self.strength == 0.0:
            return images
        qualities = torch.from_numpy(self.draw(seeds, min(images.shape[-2:]))["quality"]).to(images)
        coded: Tensor = jpeg_codec_differentiable(images, qualities)
        return coded


def pillow_jpeg(image: NDArray[np.uint8], quality: int, subsampling: str = "4:2:0") -> NDArray[np.uint8]:
    """Write an RGB image `(H, W, 3)` as JPEG in memory and read it back, with Pillow."""
    file = BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.frombytes("RGB", picture.size, file.getvalue(), "jpeg", "RGB", ""))  # known to be a JPEG


def torchvision_jpeg(image: Tensor, quality: int) -> Tensor:
    """Write an RGB image `(3, H, W)` as JPEG 4:2:0 in memory and read it back, with torchvision's operators.

    They are called as such: `torchvision.io` puts a warning that it is to go in front of each call.
    """
    decoded: Tensor = torch.ops.image.decode_jpeg(torch.ops.image.encode_jpeg(image.contiguous(), quality), 0, False)
    return decoded


@cache
def torchvision_agrees() -> bool:
    """Whether torchvision's libjpeg, another build than Pillow's, gives the same bytes: tried on noise and on edges.

    A torchvision without these operators does not.
    """
    try:
        import torchvision.io  # noqa: F401 (loads the operators)

        torchvision_jpeg(torch.zeros(3, 8, 8, dtype=torch.uint8), 50)
    except (ImportError, AttributeError, RuntimeError):
        return False
    noise = np.random.Generator(np.random.Philox(key=0)).integers(0, 256, (23, 37, 3), dtype=np.uint8)
    smooth = np.indices((23, 37)).sum(0)[..., None] * np.array([4, 2, 1]) + 7 * (noise > 250)
    return all(
        np.array_equal(
            torchvision_jpeg(torch.from_numpy(image).permute(2, 0, 1), quality).permute(1, 2, 0).numpy(),
            pillow_jpeg(image, quality),
        )
        for image in (noise, smooth.astype(np.uint8))
        for quality in (1, 10, 50, 60, 70, 80, 90, 95, 100)
    )
