"""Image losses by name."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from lightning_modules.fingerprints.losses.image_loss import ImageLoss

LOSSES = {
    "pixels": "lightning_modules.fingerprints.losses.pixels:MultiScalePixels",
    "spectrum": "lightning_modules.fingerprints.losses.block_spectrum:BlockSpectrum",
    "lpips": "lightning_modules.fingerprints.losses.perceptual:Perceptual",
    "features": "lightning_modules.fingerprints.losses.network_features:NetworkFeatures",
}


def make_loss(name: str, **options: Any) -> ImageLoss:
    """Build an image loss.

    Args:
        name: key of `LOSSES`.
        options: arguments of its class.

    Raises:
        ValueError: an unknown name.
    """
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(LOSSES)}"
        raise ValueError(f"found loss {name!r}; {hint}")
    module, attribute = LOSSES[name].split(":")
    loss: ImageLoss = getattr(importlib.import_module(module), attribute)(**options)
    return loss
