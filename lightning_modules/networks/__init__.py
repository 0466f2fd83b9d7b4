"""Networks that name the source: timm backbones and a small CNN, their stems, controls, recipes and schedule."""

from lightning_modules.networks.controlled import ControlledNetworks
from lightning_modules.networks.recipes import recipe_for, warmup_cosine
from lightning_modules.networks.source_network import STEMS, SourceNetwork, VectorHead

__all__ = ["STEMS", "ControlledNetworks", "SourceNetwork", "VectorHead", "recipe_for", "warmup_cosine"]
