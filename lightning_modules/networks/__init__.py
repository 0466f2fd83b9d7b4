"""Networks that name the source: timm backbones with stems for small images."""

from lightning_modules.networks.source_network import STEMS, SourceNetwork

__all__ = ["STEMS", "SourceNetwork"]
