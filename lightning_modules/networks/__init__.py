"""Networks that name the source: timm backbones and a small CNN, their stems, controls, recipes and schedule."""

from lightning_modules.networks.controlled import MAIN, ControlledNetworks, channel_statistics
from lightning_modules.networks.recipes import AUTO, Chosen, Recipe, adamw, choose_networks, recipe_for, warmup_cosine
from lightning_modules.networks.source_network import SMALL_CNNS, STEMS, SourceNetwork
from lightning_modules.networks.vector_head import VECTOR_HEADS, VectorHead

__all__ = [
    "AUTO",
    "MAIN",
    "SMALL_CNNS",
    "STEMS",
    "VECTOR_HEADS",
    "Chosen",
    "ControlledNetworks",
    "Recipe",
    "SourceNetwork",
    "VectorHead",
    "adamw",
    "channel_statistics",
    "choose_networks",
    "recipe_for",
    "warmup_cosine",
]
