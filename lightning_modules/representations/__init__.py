"""What a classifier sees of an image: artifacts, the raw image, controls and baselines. One registry, no Lightning."""
