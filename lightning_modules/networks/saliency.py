"""Which pixels an answer hangs on: the gradient of a logit by the pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lightning_modules.networks.fusion import FusionNetwork


def pixel_gradient(logits_of: Callable[[Tensor], Tensor], image: Tensor, named: int) -> Tensor | None:
    """Gradient of a logit by the pixels of one image (Simonyan et al., "Deep inside convolutional networks", 2014).

    At the image itself, without noisy copies around it: noise of one grey level lies above the traces that many
    generators leave (a ground of exactly 0, values on a coarse grid), so it would explain answers to other images.

    Args:
        logits_of: Images ``(n, 3, H, W)`` to logits ``(n, K)``, row by row.
        image: ``(3, H, W)``.
        named: Position of the logit.

    Returns:
        ``(3, H, W)`` float32, in logits per unit of a pixel in [0, 1]. None where the logit does not follow the
        pixels: nothing that is differentiable leads from one to the other.

    Raises:
        ValueError: a gradient that is not finite.
    """
    with torch.inference_mode(False), torch.enable_grad():  # a test runs without either
        pixels = image[None].clone().requires_grad_()  # a clone: not of inference mode
        logit = logits_of(pixels)[0, named]
        if not logit.requires_grad:
            return None
        (slope,) = torch.autograd.grad(logit, pixels, allow_unused=True)
    if slope is None:
        return None
    gradient: Tensor = slope[0].float()
    if not bool(gradient.isfinite().all()):
        raise ValueError("found a gradient that is not finite (NaN or infinity); look at the weights of the network")
    return gradient if bool(gradient.any()) else None


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
