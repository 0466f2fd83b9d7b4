"""Distances between images that an inversion minimises: one file each, one registry."""

from lightning_modules.fingerprints.losses.image_loss import ImageLoss
from lightning_modules.fingerprints.losses.make import LOSSES, make_loss

__all__ = ["LOSSES", "ImageLoss", "make_loss"]
