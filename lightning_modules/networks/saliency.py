"""Which pixels an answer hangs on: gradients of a logit by the pixels, averaged over noisy copies of the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.common.random_streams import stream_of
from lightning_modules.networks.fusion import FusionNetwork

COPIES = 16
NOISE = 1 / 255
"""Deviation of the noise in [0, 1] image units: about what rounding to 8 bits hides. More of it would wipe out the
traces that generators leave, and explain answers to other images."""
_AT_ONCE = 2**17  # pixels of the copies that are looked at together


@dataclass(frozen=True)
class Saliency:
    """How one logit changes with the pixels of one image.

    Attributes:
        gradient: ``(3, H, W)`` float32, in logits per unit of a pixel in [0, 1]; mean over the noisy copies.
        logits: ``(copies, K)`` of the copies.
    """

    gradient: Tensor
    logits: Tensor

    @property
    def map(self) -> Tensor:
        """``(H, W)``: the greatest magnitude over the channels."""
        return self.gradient.abs().amax(dim=0)

    def kept(self, named: int) -> int:
        """How many copies the same class is named for."""
        return int((self.logits.argmax(dim=1) == named).sum())


def smooth_gradient(logits_of: Callable[[Tensor], Tensor], image: Tensor, named: int, noise: Tensor) -> Saliency | None:
    """Gradient of a logit by the pixels, mean over noisy copies (SmoothGrad, Smilkov et al. 2017).

    The gradient at a single image is mostly the fine grain of piecewise linear networks; a mean over its surroundings
    shows what they have in common. One copy of noise 0 gives the plain gradient.

    Args:
        logits_of: Images ``(n, 3, H, W)`` to logits ``(n, K)``, row by row.
        image: ``(3, H, W)``.
        named: Position of the logit.
        noise: ``(copies, 3, H, W)``, added to the image.

    Returns:
        None where the logit does not follow the pixels: nothing that is differentiable leads from one to the other.

    Raises:
        ValueError: a gradient that is not finite.
    """
    found: list[Tensor] = []
    with torch.inference_mode(False), torch.enable_grad():  # a test runs without either
        total = torch.zeros_like(image, dtype=torch.float64)
        for part in torch.split(noise, max(1, _AT_ONCE // (image.shape[-2] * image.shape[-1]))):
            copies = (image.clone() + part.clone()).requires_grad_()  # clones: not of inference mode
            logits = logits_of(copies)
            slope = None
            if logits.requires_grad:
                (slope,) = torch.autograd.grad(logits[:, named].sum(), copies, allow_unused=True)
            if slope is None:
                return None
            total += slope.double().sum(dim=0)
            found.append(logits.detach())
    gradient = (total / len(noise)).float()
    if not bool(gradient.isfinite().all()):
        raise ValueError("found a gradient that is not finite (NaN or infinity); look at the weights of the network")
    return Saliency(gradient, torch.cat(found)) if bool(gradient.any()) else None


def pixel_noise(image: Tensor, seed: int, key: int, copies: int = COPIES, deviation: float = NOISE) -> Tensor:
    """Normal noise ``(copies, 3, H, W)`` that follows from the seed and a key of the image (its content id).

    A grey image gets the same noise in all channels: its copies stay grey, as colour is not in its nature, and in some
    spaces any trace of it would be all that is seen.
    """
    grey = bool((image == image[:1]).all())
    shape = (copies, 1 if grey else image.shape[0], *image.shape[1:])
    drawn = stream_of(seed, key).standard_normal(shape, dtype=np.float32)
    noise = torch.from_numpy(drawn).to(image) * deviation
    return noise.expand(-1, image.shape[0], -1, -1)


def own_logits(network: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits ``(N, K)`` of a network, of inputs by representation; of a fusion, the weighted sum of its branches' own.

    The softmax of that sum is the fusion's answer, the product of experts, but the sum does not flatten out as log
    probabilities near 1 do. Branches without an input are left out.
    """
    if isinstance(network, FusionNetwork):
        pairs = zip(network.names, network.weights, strict=True)
        parts = [weight * network.branches[name](inputs[name])[0] for name, weight in pairs if name in inputs]
        return torch.stack(parts).sum(dim=0)
    (seen,) = inputs.values()
    logits: Tensor = network(seen)[0]
    return logits
