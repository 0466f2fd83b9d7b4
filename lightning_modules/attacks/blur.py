"""Gaussian blur (Nie et al. 2023, Sec. 4: kernel 3, 7, 9, 16 or 25 taps, standard deviation 0.5 to 2 pixels)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from kornia.filters import filter2d_separable
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.attacks.base import Attack, Parameter, Spec, parse_draw
from lightning_modules.attacks.curves import CURVES
from lightning_modules.common.random_streams import draw_uniforms

_SMALL = 64  # pixels: up to here a product with matrices beats a convolution, whatever the kernel
_PIECE = 2**18  # values in one product on a CPU: the memory of larger ones comes from the system anew in each call

_PAPER: Spec = {"kernel": [3, 7, 9, 16, 25], "sigma": [0.5, 1.0, 1.5, 2.0]}


def gaussian_taps(taps: int, sigma: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Sample `exp(-(x - c)^2 / 2 sigma^2)` and normalise it to sum 1, one row per sigma.

    An odd kernel has its taps at `-r .. r` and c = 0. An even one of k taps has them at `-k/2 + 1 .. k/2`, and its
    centre c = `shift` (0.5 for the symmetric one) lies between two of them; it is given in a window of k + 1 taps whose
    first is zero, so that every window is odd and no library's anchor for even ones matters.

    Returns:
        float64 `(n, k)` for odd k, `(n, k + 1)` for even k; a sigma of 0 pixels gives the unit impulse.
    """
    even = taps % 2 == 0
    offsets = np.arange(-(taps // 2), taps // 2 + 1, dtype=np.float64)
    distance = (offsets - (shift if even else 0.0)) ** 2
    distance -= distance.min()  # the nearest tap weighs 1 before normalising: a small sigma cannot underflow them all
    rows = np.empty((len(sigma), len(offsets)))
    for row, width in zip(rows, np.maximum(sigma, 1e-6), strict=True):  # at 1e-6 px every other tap is exactly 0
        row[:] = np.exp(-distance / (2.0 * width**2))
        row[0] = 0.0 if even else row[0]
        row /= row.sum()
    return rows


def taps_of_enlarged(weights: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Give the taps `(n, k')`, k' odd, that do to an image what `weights` `(n, k)`, k odd, do when it is enlarged.

    Enlarge by repeating each pixel f times, correlate, and average each block of f: together one correlation of the
    small image. Of the f^2 pairs of positions in two blocks d apart, f - |t - d f| lie t apart, so that tap d is
    `sum over t of weights(t) max(0, 1 - |t / f - d|)`: every tap is shared by its two neighbours on the coarse grid.
    The same formula serves factors of at least 1 that are not whole.
    """
    reach = weights.shape[1] // 2
    fine = np.arange(-reach, reach + 1)[:, None] / factor
    coarse = np.arange(-int(np.ceil(reach / factor)), int(np.ceil(reach / factor)) + 1)
    share = np.maximum(0.0, 1.0 - np.abs(fine - coarse))  # (k, k')
    return np.stack([(row[:, None] * share).sum(axis=0) for row in weights])


def blur_exactly(pixels: Tensor, weights: Tensor) -> Tensor:
    """Correlate rows, then columns, with each image's own taps; the border is mirrored without its edge pixel.

    Taps are added one by one, in numpy: an image's result depends neither on its batch nor on the processor, as a
    library's convolution may.

    Args:
        pixels: float64 `(n, C, H, W)`.
        weights: float64 `(n, k)`, k odd, k // 2 < min(H, W).
    """
    blurred = np.empty(pixels.shape)
    for image, taps, result in zip(pixels.numpy(), weights.numpy(), blurred, strict=True):
        rows = _correlate(image.transpose(2, 0, 1), taps)  # (W, C, H)
        result[:] = _correlate(rows.transpose(2, 1, 0), taps).transpose(1, 0, 2)
    return torch.from_numpy(blurred)


def blur_by_matrices(images: Tensor, weights: Tensor) -> Tensor:
    """Correlate rows, then columns, with each image's own taps, as two products with banded matrices.

    Costs as many multiplications for 3 taps as for 25, and on small images less time than a convolution of either.

    Args:
        images: float32 `(n, C, H, W)`.
        weights: float32 `(n, k)`, k odd, k // 2 < min(H, W).
    """
    count, channels, height, width = images.shape
    weights = weights.where(weights >= 1e-12, 0.0)  # numbers too small for float32's normal ones cost 100 times others
    across = _banded(weights, width)
    down = across if height == width else _banded(weights, height)
    rows = torch.bmm(images.reshape(count, channels * height, width), across.transpose(1, 2))
    return torch.matmul(down[:, None], rows.reshape(images.shape))


def _banded(weights: Tensor, length: int) -> Tensor:
    """Give the matrices `(n, length, length)` that correlate with taps `(n, k)`, k odd, and mirror at both ends."""
    count, taps = weights.shape
    reach, wide = taps // 2, length + taps - 1
    lines = weights.new_zeros(count, length, wide + 1)
    lines[:, :, :taps] = weights[:, None]  # read as lines one shorter, every line's taps lie one further to the right
    shifted = lines.reshape(count, -1)[:, : length * wide].reshape(count, length, wide)
    matrices = shifted[:, :, reach : reach + length].clone()
    matrices[:, :, 1 : reach + 1] += shifted[:, :, :reach].flip(2)
    matrices[:, :, length - 1 - reach : length - 1] += shifted[:, :, reach + length :].flip(2)
    return matrices


def _correlate(values: NDArray[np.float64], taps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlate along the first axis, where what each tap multiplies lies in one piece of memory."""
    length, reach = len(values), len(taps) // 2
    mirrored = np.empty((length + 2 * reach, *values.shape[1:]))
    mirrored[reach : reach + length] = values
    mirrored[:reach] = values[1 : reach + 1][::-1]
    mirrored[reach + length :] = values[length - 1 - reach : length - 1][::-1]
    total, product = np.zeros(values.shape), np.empty(values.shape)
    for offset in np.flatnonzero(taps):
        np.multiply(mirrored[offset : offset + length], taps[offset], out=product)
        total += product
    return total


class Blur(Attack):
    """Blur each image with its own Gaussian; the border is mirrored (edge pixel not repeated).

    **Even kernels.** The paper's set holds 16, which has no middle tap. Its 16 taps are sampled about a centre half a
    pixel to the right of and below the output pixel (Kornia's `force_even`): besides being blurred, the image moves
    half a pixel to the left and up. This is deliberate; 17 taps would not move it.

    **Scaling with the image.** With `reference_size` the parameters are those of an image whose shorter side has that
    many pixels: sigma is multiplied by `size / reference_size`, and so is the kernel, which is then rounded to the
    nearest odd count, ties up, at least 3. At the reference size itself nothing is rounded (16 stays 16).
    At 32 px and reference 256 all of the paper's kernels become 3 taps with sigma 0.0625 to 0.25 px, whose outer taps
    are at most 0.00034: the blur vanishes in 8 bits. With `scaling="image"` the parameters stay, and the image is
    blurred as if it had been enlarged to `reference_size`, blurred there and averaged back, which no sampling of a
    narrow Gaussian loses: sigma 2 at 256 px is then 0.10, 0.80, 0.10 at 32 px.

    The strength of `at_strength` multiplies sigma, and the half pixel of an even kernel; kernels keep their taps.

    Args:
        sigma: standard deviation in pixels, at least 0.
        kernel: number of taps per axis; None takes the odd count that reaches 4 sigma on both sides.
        reference_size: shorter side in pixels of the image that sigma and kernel are meant for; None: every image.
        scaling: what is brought to the other's size: `parameters` or `image`.

    Raises:
        ValueError: parameters out of range; in a call, an image too small to be mirrored as far as its kernel reaches,
            or one larger than `reference_size` where `scaling` is `image`.
    """

    kind = "blur"
    presets: ClassVar[Mapping[str, Spec]] = {
        "paper": _PAPER,
        "paper-strongest": {"kernel": 25, "sigma": 2.0},
        "paper-scaled": {**_PAPER, "reference_size": 256},  # the paper's images have 256 px
        "paper-enlarged": {**_PAPER, "reference_size": 256, "scaling": "image"},
        "life": {"sigma": {"uniform": [0.3, 1.0]}},  # of the image as it is: small ones change too
    }
    curve = CURVES["blur"]

    def __init__(
        self,
        sigma: Parameter,
        kernel: Parameter | None = None,
        reference_size: int | None = None,
        scaling: str = "parameters",
    ) -> None:
        super().__init__()
        self.sigma = parse_draw("blur.sigma", sigma, 0.0, 100.0, "standard deviation in pixels")
        self.kernel = None if kernel is None else parse_draw("blur.kernel", kernel, 1, 999, "taps per axis", whole=True)
        if reference_size is not None and (not isinstance(reference_size, int) or reference_size < 1):
            raise ValueError(f"blur.reference_size: found {reference_size!r}, expected a whole number of pixels")
        if scaling not in ("parameters", "image") or (scaling == "image" and reference_size is None):
            raise ValueError(
                f"blur.scaling: found {scaling!r} with reference_size {reference_size}, "
                "expected 'parameters', or 'image' together with a reference_size"
            )
        self.reference_size, self.scaling = reference_size, scaling

    def draw(self, seeds: NDArray[np.int64], size: int) -> dict[str, NDArray[Any]]:
        """Give `sigma` float64 `(n,)` in pixels and `kernel` int64 `(n,)` in taps, of an image of this size.

        Where `scaling` is `image` they are those of the enlarged image.
        """
        uniform = draw_uniforms(seeds, self.kind, 2)
        scale = size / self.reference_size if self.reference_size and self.scaling == "parameters" else 1.0
        full = self.sigma.at(uniform[:, 0]) * scale
        if self.kernel is None:
            taps = 2 * np.ceil(4.0 * full) + 1
        else:
            taps = self.kernel.at(uniform[:, 1])
            if scale != 1.0:
                taps = np.maximum(3, 2 * np.floor(taps * scale / 2) + 1)
        return {"sigma": self.strength * full, "kernel": taps.astype(np.int64)}

    def attack_pixels(self, pixels: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Blur in float64, tap by tap."""
        return self._by_kernel(pixels, seeds, blur_exactly)

    def attack_smoothly(self, images: Tensor, seeds: NDArray[np.int64]) -> Tensor:
        """Blur on the device: small images by matrices, larger ones by a separable convolution per kernel size."""
        if max(images.shape[-2:]) > _SMALL:
            return self._by_kernel(images, seeds, lambda some, taps: filter2d_separable(some, taps, taps, "reflect"))
        groups = list(self._groups(seeds, min(images.shape[-2:])))
        window = max(weights.shape[1] for _, weights in groups)
        taps = np.zeros((len(images), window))
        for chosen, weights in groups:
            around = (window - weights.shape[1]) // 2
            taps[chosen, around : around + weights.shape[1]] = weights
        several = max(1, _PIECE // images[0].numel()) if images.device.type == "cpu" else len(images)
        each = torch.from_numpy(taps).to(images)
        pieces = zip(torch.split(images, several), torch.split(each, several), strict=True)
        return torch.cat([blur_by_matrices(some, theirs) for some, theirs in pieces])

    def _by_kernel(
        self, images: Tensor, seeds: NDArray[np.int64], filtered: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        blurred = torch.empty_like(images)
        for chosen, weights in self._groups(seeds, min(images.shape[-2:])):
            where = torch.from_numpy(chosen).to(images.device)
            blurred[where] = filtered(images[where], torch.from_numpy(weights).to(images))
        return blurred

    def _groups(self, seeds: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """Give the positions of the images that drew a kernel size, and their taps `(n, k)`, for each such size."""
        drawn = self.draw(seeds, size)
        for taps in np.unique(drawn["kernel"]):
            chosen = np.flatnonzero(drawn["kernel"] == taps)
            yield chosen, self._weights(int(taps), drawn["sigma"][chosen], size)

    def _weights(self, taps: int, sigma: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        different, which = np.unique(sigma, return_inverse=True)
        weights = gaussian_taps(taps, different, shift=0.5 * self.strength)
        if self.reference_size and self.scaling == "image":
            if size > self.reference_size:
                raise ValueError(
                    f"found images of {size} px, blur scaling 'image' enlarges them to {self.reference_size} px: "
                    "raise reference_size, or scale the parameters"
                )
            weights = taps_of_enlarged(weights, self.reference_size / size)
        reach = weights.shape[1] // 2
        if reach >= size:
            raise ValueError(
                f"a blur kernel of {taps} taps reaches {reach} px beyond the border, images of {size} px can be "
                f"mirrored by {size - 1} px: name a smaller kernel, or scale it by reference_size"
            )
        return weights[which]
