"""Readers of real sets, one file each."""

from datamodules.real.registry import REAL_SETS, LazyPictures, Pictures, RealSet, load_real_set

__all__ = ["REAL_SETS", "LazyPictures", "Pictures", "RealSet", "load_real_set"]
