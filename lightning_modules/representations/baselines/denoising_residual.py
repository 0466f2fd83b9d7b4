"""The noise residual of Marra et al. 2019, "Do GANs leave artificial fingerprints?"."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from lightning_modules.artifacts.embeddings.filters import check_images
from lightning_modules.representations.registry import Inputs, Representation


class DenoisingResidual(Representation):
    """What a denoiser takes away: ``R = x - f(x)``, as one vector ``(3 H W,)``.

    The paper: the mean residual of many images of a generator is its fingerprint; an image is attributed to the
    fingerprint with which its residual correlates most (rule ``correlation``). The denoiser and the number of images
    could not be verified. Ours: an adaptive Wiener filter over 3 x 3 pixels, by channel, with the mean local variance
    of the image as that of its noise, and all training images. Small images: nothing is changed; with fewer pixels a
    correlation by chance is larger (1/sqrt(3 H W): .02 at 32 px).
    """

    name, title = "denoising_residual", "noise residual (Marra 2019)"

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        images = check_images(inputs.images).double()
        return (images - wiener(images)).float().flatten(1)

    def output_shape(self, image_shape: tuple[int, ...], shown_shape: tuple[int, ...]) -> tuple[int, ...]:
        """``(3 H W,)``."""
        channels, height, width = image_shape
        return (channels * height * width,)


def wiener(images: Tensor) -> Tensor:
    """Local mean, plus what remains of the rest: ``m + max(v - s, 0) / max(v, s) (x - m)`` (Lim 1990, Sec. 9.2).

    m and v are mean and variance over 3 x 3 pixels, s the mean of v over a channel. Float64 ``(N, C, H, W)``, the
    border mirrored without its edge pixel.
    """
    mirrored = pad(images, (1, 1, 1, 1), mode="reflect")
    mean = avg_pool2d(mirrored, 3, stride=1)
    variance = (avg_pool2d(mirrored.square(), 3, stride=1) - mean.square()).clamp(min=0)
    noise = variance.mean(dim=(2, 3), keepdim=True)
    kept = (variance - noise).clamp(min=0) / torch.maximum(variance, noise).clamp(min=torch.finfo(images.dtype).tiny)
    return mean + kept * (images - mean)
