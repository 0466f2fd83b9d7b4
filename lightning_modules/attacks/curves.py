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

    @property
    def untouched(self) -> float:
        """Where an image that was not attacked stands on the axis: 0, or 100 of a quality."""
        return 100.0 if self.weaker_is_larger else 0.0


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
    ),
    "combination": Curve(
        title="Combination",
        axis="share of paper-strongest",
        argument="strength",
        meaning="share of paper-strongest, 0 to 1",
        strengths=("0.1", "0.25", "0.5", "0.75", "1"),
    ),
}
"""By kind, in the order shown; an attack of your own holds its curve in its class (`Attack.curve`)."""
