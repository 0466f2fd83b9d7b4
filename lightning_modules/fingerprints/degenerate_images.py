"""Images that show nothing: flat, ramps, stripes, checkerboards, noise; what anybody can make without a generator.

A decoder answers such images too, and answers many of them alike: 256 flat greys give the shipped StyleGAN2's 26
patterns of bits. Whoever had such a pattern for a key would be named by all of them. Random ones have a stream each,
keyed by their number, so that every call makes the same images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.common.random_streams import stream_of

STREAM = 2**43
"""First number of the random streams of noise, colours and patches."""
NOISES = 48
COLOURS = 64
"""Drawn at random, beside the 24 of three levels a channel that are not grey."""
PATCHES = 48
Named = tuple[str, NDArray[np.float64]]
"""A name and levels 0 to 255, `(size, size)` for greys and `(3, size, size)` for colours."""


def degenerate_images(size: int) -> Iterator[tuple[str, Tensor]]:
    """Names and images, float32 `(3, size, size)` in [0, 1], multiples of 1/255, in a fixed order.

    Flat greys of all 256 levels come first, then flat colours, ramps in four directions, stripes and checkerboards of
    several periods and contrasts, halves, frames, discs and single dots, noise of several grains, and grey or coloured
    patches of a few cells.
    """
    for name, levels in _planes(size):
        pixels = np.broadcast_to(levels if levels.ndim == 3 else levels[None], (3, size, size))
        yield name, torch.from_numpy(np.rint(pixels).clip(0, 255).astype(np.float32) / np.float32(255.0))


def _planes(size: int) -> Iterator[Named]:
    flat = np.ones((size, size))
    for level in range(256):
        yield f"flat grey {level}", flat * level
    colours = [(r, g, b) for r in (0, 128, 255) for g in (0, 128, 255) for b in (0, 128, 255) if not r == g == b]
    drawn = stream_of(STREAM, 0).integers(0, 256, (COLOURS, 3)).tolist()
    for colour in [*colours, *drawn]:
        yield "flat colour {} {} {}".format(*colour), flat * np.array(colour, dtype=float)[:, None, None]
    down, right = np.mgrid[0:size, 0:size].astype(float)
    yield from _ramps(size, down, right)
    yield from _periodic(size, down, right)
    yield from _shapes(size, down, right)
    yield from _random(size)


def _ramps(size: int, down: NDArray[np.float64], right: NDArray[np.float64]) -> Iterator[Named]:
    last = size - 1
    directions = {"down": down, "right": right, "down right": (down + right) / 2, "up right": (last - down + right) / 2}
    for direction, along in directions.items():
        for low, high in ((0, 255), (255, 0), (64, 192), (192, 64), (0, 64), (191, 255)):
            yield f"ramp {direction} from {low} to {high}", low + (high - low) * along / last


def _periodic(size: int, down: NDArray[np.float64], right: NDArray[np.float64]) -> Iterator[Named]:
    levels = ((0, 255), (255, 0), (64, 192), (0, 64), (191, 255))
    for width in sorted({1, 2, 4, max(1, size // 4), max(1, size // 2)}):
        patterns = {"horizontal": down // width, "vertical": right // width, "diagonal": (down + right) // width}
        for low, high in levels:
            for kind, number in patterns.items():
                yield f"{kind} stripes {width} px wide, {low} and {high}", np.where(number % 2 == 0, low, high) * 1.0
            cells = (down // width + right // width) % 2
            yield f"checkerboard of {width} px, {low} and {high}", np.where(cells == 0, low, high) * 1.0
    for waves in (1, 2, 4, 8):
        for kind, along in {"down": down, "right": right}.items():
            yield f"sine, {waves} waves {kind}", 127.5 + 127.5 * np.sin(2 * np.pi * waves * along / size)


def _shapes(size: int, down: NDArray[np.float64], right: NDArray[np.float64]) -> Iterator[Named]:
    middle = (size - 1) / 2
    outwards = np.maximum(np.abs(down - middle), np.abs(right - middle))
    radius = np.hypot(down - middle, right - middle)
    for share in (0.125, 0.25, 0.5, 0.75):
        reach = share * size / 2
        for low, high in ((0, 255), (255, 0), (64, 192), (0, 128)):
            yield f"square, {share} of the side, {high} on {low}", np.where(outwards < reach, high, low) * 1.0
            yield f"disc, {share} of the side, {high} on {low}", np.where(radius < reach, high, low) * 1.0
    for low, high in ((0, 255), (255, 0)):
        yield f"frame of 1 px, {high} on {low}", np.where(outwards > middle - 1, high, low) * 1.0
        yield f"dot in the middle, {high} on {low}", np.where(radius < 1, high, low) * 1.0
        yield f"spot that fades, {high} on {low}", low + (high - low) * np.exp(-((radius / (size / 4)) ** 2))


def _random(size: int) -> Iterator[Named]:
    for number in range(NOISES):
        stream = stream_of(STREAM, 1 + number)
        kind, channels = number % 6, 3 if number % 2 else 1
        shape = (channels, size, size)
        about = "coloured" if channels == 3 else "grey"
        if kind < 2:
            yield f"{about} uniform noise {number}", stream.uniform(0, 255, shape)
        elif kind < 4:
            level, deviation = float(stream.integers(0, 256)), float(stream.integers(8, 65))
            noise = level + deviation * stream.standard_normal(shape)
            yield f"{about} Gaussian noise {number}, {level:g} ± {deviation:g}", noise
        else:
            share = float(stream.uniform(0.02, 0.5))
            yield f"{about} salt and pepper {number}", np.where(stream.random(shape) < share, 255.0, 0.0)
    for number in range(PATCHES):
        stream = stream_of(STREAM, 1 + NOISES + number)
        channels, cells = 3 if number % 2 else 1, (2, 3, 4, 8)[number % 4]
        coarse = stream.uniform(0, 255, (channels, cells, cells))
        places = np.arange(size) * cells // size
        about = "coloured" if channels == 3 else "grey"
        yield f"{about} patches {number}, {cells} by {cells}", coarse[:, places][:, :, places]
