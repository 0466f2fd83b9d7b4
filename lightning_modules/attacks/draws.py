"""A parameter of an attack: one number, one of several, or any of a range; drawn for each image by its own stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Parameter = float | Sequence[float] | Mapping[str, Sequence[float]]
"""As written in YAML: `0.1`, `[3, 7, 9]` (each equally likely) or `{uniform: [0.0, 0.1]}`."""


@dataclass(frozen=True)
class Draw:
    """The distribution of a parameter, as a map from a uniform number to a value."""

    values: tuple[float, ...]
    uniform: bool = False  # values are then the two ends of a range

    def at(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the values that belong to uniform numbers `u` in [0, 1): the quantile function, float64, same shape."""
        if self.uniform:
            low, high = self.values
            return low + (high - low) * u
        return np.asarray(self.values, dtype=np.float64)[(u * len(self.values)).astype(np.int64)]


def parse_draw(what: str, value: object, minimum: float, maximum: float, unit: str, *, whole: bool = False) -> Draw:
    """Read a parameter as YAML gives it.

    Args:
        what: its name in messages, for example `noise.std`.
        value: a number, a list of numbers, or `{uniform: [low, high]}`.
        minimum: least value allowed.
        maximum: greatest value allowed.
        unit: said in messages.
        whole: values must be whole numbers; a uniform range is then refused.

    Raises:
        ValueError: anything else, or a value outside [minimum, maximum].
    """
    uniform = isinstance(value, Mapping)
    listed: Any = value.get("uniform") if isinstance(value, Mapping) and set(value) == {"uniform"} else value
    numbers: Sequence[Any] = listed if isinstance(listed, Sequence) and not isinstance(listed, str) else [listed]
    forms = "a number or a list of numbers" + ("" if whole else ", or {uniform: [low, high]}")
    if (
        not numbers
        or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers)
        or (uniform and (whole or len(numbers) != 2 or numbers[0] > numbers[1]))
    ):
        raise ValueError(f"{what}: found {value!r}, expected {forms}")
    kind = "whole numbers" if whole else "numbers"
    wrong = [n for n in numbers if not minimum <= n <= maximum or (whole and n != int(n))]
    if wrong:
        raise ValueError(f"{what}: found {wrong[0]!r}, expected {kind} from {minimum:g} to {maximum:g} ({unit})")
    return Draw(tuple(float(number) for number in numbers), uniform)
