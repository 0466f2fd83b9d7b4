"""Networks that name the source: timm backbones and a small CNN, their stems, controls, recipes and schedule."""

from lightning_modules.networks.controlled import MAIN, ControlledNetworks, channel_statistics
from lightning_modules.networks.recipes import AUTO, Recipe, choose_network, recipe_for, warmup_cosine
from lightning_modules.networks.source_network import SMALL_CNNS, STEMS, SourceNetwork

__all__ = [
    "AUTO",
    "MAIN",
    "SMALL_CNNS",
    "STEMS",
    "ControlledNetworks",
    "Recipe",
    "SourceNetwork",
    "channel_statistics",
    "choose_network",
    "recipe_for",
    "warmup_cosine",
]
