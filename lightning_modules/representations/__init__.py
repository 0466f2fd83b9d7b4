"""What a classifier sees of an image: artifacts, the raw image, controls and baselines. One registry, no Lightning."""

from lightning_modules.representations.batches import ManifoldSettings, Representations, Represented
from lightning_modules.representations.registry import (
    REPRESENTATIONS,
    Inputs,
    Representation,
    build_representation,
    representation_title,
)

__all__ = [
    "REPRESENTATIONS",
    "Inputs",
    "ManifoldSettings",
    "Representation",
    "Representations",
    "Represented",
    "build_representation",
    "representation_title",
]
