"""The robustness curves of the attacks that ship: what the strength in `KIND_NUMBER` is. Imports nothing slow.

Reports and comparisons draw by them without loading an attack, and so without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Curve:
    """The robustness curve of a kind of attack, over the NUMBER of the names `KIND_NUMBER`."""

    title: str  # of its panel
    axis: str  # label of the strength, with its unit
    argument: str  # the attack's option that the number is
    meaning: str  # of the number, for messages
    strengths: tuple[str, ...]  # those of the set `grid-KIND`, as they stand in names
    weaker_is_larger: bool = False  # whether a larger number leaves more of the image
    fixed: Mapping[str, Any] = field(default_factory=dict)  # the other options
    untouched: float = 0.0  # where an image that was not attacked stands on the axis


def _share(title: str, axis: str, argument: str, strengths: tuple[str, ...]) -> Curve:
    """A curve over a number of which 1 leaves everything."""
    return Curve(title, axis, argument, f"{axis}, up to 1", strengths, weaker_is_larger=True, untouched=1.0)


def _factor(title: str, strengths: tuple[str, ...]) -> Curve:
    """A curve over a factor of which 1 leaves everything."""
    return Curve(title, "factor", "factor", "factor, 1 for nothing", strengths, untouched=1.0)


CURVES = {
    "noise": Curve(
        title="Noise",
        axis="standard deviation (images in [0, 1])",
        argument="std",
        meaning="standard deviation in [0, 1] image units",
        strengths=("0.01", "0.02", "0.05", "0.1", "0.15", "0.2"),
    ),
    "blur": Curve(
        title="Blur",
        axis="standard deviation in pixels",
        argument="sigma",
        meaning="standard deviation in pixels, kernel reaching 4 of them",
        strengths=("0.25", "0.5", "0.75", "1", "1.5", "2"),
    ),
    "jpeg": Curve(
        title="JPEG",
        axis="quality",
        argument="quality",
        meaning="quality, a whole number from 1 to 100",
        strengths=("95", "90", "80", "70", "60", "50", "30", "10"),
        weaker_is_larger=True,
        untouched=100.0,
    ),
    "combination": Curve(
        title="Combination",
        axis="share of paper-strongest",
        argument="strength",
        meaning="share of paper-strongest, 0 to 1",
        strengths=("0.1", "0.25", "0.5", "0.75", "1"),
    ),
    "crop": _share("Crop and resize", "share of the side kept", "kept", ("0.95", "0.9", "0.8", "0.7", "0.5")),
    "aspect": _share("Stretching", "share of one side kept", "kept", ("0.95", "0.9", "0.8", "0.7")),
    "scaling": _share("Smaller and back", "share of the side", "share", ("0.75", "0.5", "0.375", "0.25")),
    "shift": Curve("Shift", "pixels", "pixels", "pixels, a whole number", ("1", "2", "4", "8")),
    "rotation": Curve("Rotation", "degrees", "degrees", "degrees, either way", ("1", "2", "5", "10", "30")),
    "brightness": _factor("Brightness", ("1.1", "1.25", "1.5", "2")),
    "contrast": _factor("Contrast", ("1.1", "1.25", "1.5", "2")),
    "gamma": _factor("Gamma", ("1.1", "1.25", "1.5", "2")),
    "saturation": _share("Saturation", "factor", "factor", ("0.75", "0.5", "0.25", "0")),
    "overlay": Curve("Overlay", "share of the image", "area", "share of the image", ("0.02", "0.05", "0.1", "0.2")),
    "border": Curve(
        "Border", "share of the side", "share", "width, share of the side", ("0.03", "0.06", "0.12", "0.2")
    ),
    "webp": Curve(
        title="WebP",
        axis="quality",
        argument="quality",
        meaning="quality, a whole number from 1 to 100",
        strengths=("90", "80", "70", "50", "30", "10"),
        weaker_is_larger=True,
        untouched=100.0,
    ),
    "palette": Curve(
        title="Palette",
        axis="colours",
        argument="colours",
        meaning="colours, a whole number from 2 to 256",
        strengths=("256", "128", "64", "32", "16", "8"),
        weaker_is_larger=True,
        untouched=256.0,
    ),
    "regeneration": Curve(
        title="Regeneration",
        axis="times through an auto-encoder",
        argument="passes",
        meaning="times through an auto-encoder that ships, 1 to 20",
        strengths=("1", "2", "4"),
    ),
}
"""By kind, in the order shown; an attack of your own holds its curve in its class (`Attack.curve`)."""
