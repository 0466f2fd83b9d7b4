"""Distances between images that an inversion minimises: one file each, one registry."""

from lightning_modules.fingerprints.decoders.losses.registry import LOSSES, ImageLoss, make_loss

__all__ = ["LOSSES", "ImageLoss", "make_loss"]
