"""An image in some space as one vector, for heads and rules that take vectors."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from lightning_modules.common.tables import Choice
from lightning_modules.representations.registry import Inputs, Representation


class Vector(Representation):
    """What its space shows of an image, as one vector.

    Args:
        embedding: Its space; None for the attributor's.
        half: Leave out the columns right of the middle: of a spectrum they repeat those left of it (the transform of a
            real image is symmetric).
    """

    name, title = "vector", "image as a vector"

    def __init__(self, embedding: Choice | None = None, half: bool = False) -> None:
        self.embedding, self.half = embedding, half

    def __call__(self, inputs: Inputs) -> Tensor:
        """See the class."""
        shown = inputs.show(inputs.embedded)
        return (shown[..., : shown.shape[-1] // 2 + 1] if self.half else shown).flatten(1)

    def output_shape(self, image_shape: tuple[int, ...], shown_shape: tuple[int, ...]) -> tuple[int, ...]:
        """``(d,)``."""
        width: Any = shown_shape[-1] // 2 + 1 if self.half else shown_shape[-1]
        return (math.prod(shown_shape[:-1]) * int(width),)
