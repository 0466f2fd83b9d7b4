"""Weights for the Inception network that a rule makes from the parameters' names; no test in here."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor
from torchvision.models import Inception3


def seeded_inception() -> dict[str, Tensor]:
    """Tensors with the names and shapes of the published file, each from a seed that is a checksum of its name."""
    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        if name.endswith(("running_var", "bn.weight")):
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
        else:
            scale = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1
            state[name] = torch.randn(value.shape, generator=generator) * scale
    return state


def seeded_image(side: int) -> Tensor:
    """One 8-bit image, `(1, 3, side, side)`."""
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8, generator=generator)
