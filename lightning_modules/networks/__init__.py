"""Networks that name the source: timm backbones with stems for small images, their controls, their schedule."""

from lightning_modules.networks.controlled import MAIN, ControlledNetworks
from lightning_modules.networks.schedule import warmup_cosine
from lightning_modules.networks.source_network import STEMS, SourceNetwork

__all__ = ["MAIN", "STEMS", "ControlledNetworks", "SourceNetwork", "warmup_cosine"]
