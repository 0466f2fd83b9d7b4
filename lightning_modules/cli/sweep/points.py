"""The points of a sweep: what each one sets, what it is called, and the command that runs it."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_modules.cli.sweep.file import Choice, Range, Sweep, SweepError

_LONGEST_NAME = 100  # file systems take 255 bytes; a reader takes fewer
_ENVIRONMENT = re.compile(r"\$\{envvar:([^}]*)\}")


@dataclass(frozen=True)
class Point:
    """One point of a sweep.

    Attributes:
        settings: the values of what varies, by the shortest name that tells the parameters apart.
        arguments: what `${args}` stands for: `--name=value` of every parameter.
    """

    settings: Mapping[str, Any]
    arguments: tuple[str, ...]

    @property
    def label(self) -> str:
        """The settings in one line: `sigma=1, shift=-32`."""
        return ", ".join(f"{name}={value}" for name, value in self.settings.items()) or "the only point"

    @property
    def folder(self) -> str:
        """A name for the point's folder, unique within the sweep and the same on every call."""
        name = ",".join(f"{name}={value}" for name, value in self.settings.items()) or "point"
        safe = re.sub(r"[^\w.=,+-]", "_", name)[:_LONGEST_NAME]
        return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def sweep_points(sweep: Sweep, count: int | None = None, seed: int = 0) -> list[Point]:
    """All points of a grid, the last parameter changing fastest, or `count` random ones.

    Random point i follows from (seed, i) alone, so that a larger count goes on where a smaller one ended. Points that
    are equal count once.

    Args:
        sweep: the file.
        count: number of points of a random sweep; None for its `run_cap`.
        seed: of a random sweep.

    Raises:
        SweepError: a count for a grid, or none for a random sweep; a negative seed.
    """
    paths = list(sweep.parameters)
    drawn: list[tuple[Any, ...]]
    if sweep.method == "grid":
        if count is not None:
            raise SweepError(f"{sweep.path} is a grid, whose points are all run; --count is for `method: random`")
        choices = [parameter.values for parameter in sweep.parameters.values() if isinstance(parameter, Choice)]
        drawn = list(itertools.product(*choices))
    else:
        count = sweep.run_cap if count is None else count
        if seed < 0:
            raise SweepError(f"found --seed {seed}, expected 0 or more")
        if count is None or count < 1:
            raise SweepError(f"{sweep.path} is random: say how many points with --count, at least 1, or with run_cap")
        drawn = [
            tuple(_draw(parameter, seed, number, ".".join(path)) for path, parameter in sweep.parameters.items())
            for number in range(count)
        ]
    names = sweep.varying()
    points: dict[tuple[str, ...], Point] = {}
    for values in drawn:
        by_path = dict(zip(paths, values, strict=True))
        settings = {name: by_path[path] for path, name in names.items()}
        arguments = _arguments(by_path)
        points.setdefault(arguments, Point(settings, arguments))
    return list(points.values())


def command_of(sweep: Sweep, point: Point) -> list[str]:
    """The words of a point's command, as W&B's agent would run it, with this interpreter for `${interpreter}`.

    Raises:
        SweepError: the command asks for an environment variable that is not set.
    """
    words: list[str] = []
    for word in sweep.command:
        if word == "${args}":
            words += point.arguments
        elif word == "${program}":
            words += program_words(sweep)
        elif word == "${interpreter}":
            words.append(sys.executable)
        elif word == "${env}":
            words.append("/usr/bin/env")
        else:
            words.append(_ENVIRONMENT.sub(lambda found: _variable(sweep, found.group(1)), word))
    return words


def program_arguments(sweep: Sweep, command: list[str]) -> list[str]:
    """What a point's command gives to the program."""
    return command[command.index(program_words(sweep)[-1]) + 1 :]


def program_words(sweep: Sweep) -> tuple[str, ...]:
    """What `${program}` stands for: the script; where `train.py` is asked for and is not here, the installed command.

    A sweep file that ships names `train.py`, which a checkout has and an installed package has not.
    """
    if sweep.program == "train.py" and not Path(sweep.program).is_file():
        return ("-m", "lightning_modules.cli", "train")
    return (sweep.program,)


def _variable(sweep: Sweep, name: str) -> str:
    if name not in os.environ:
        raise SweepError(f"{sweep.path}: command asks for the environment variable {name}, which is not set")
    return os.environ[name]


def _draw(parameter: Choice | Range, seed: int, number: int, name: str) -> Any:
    """One value, the same whatever other parameters there are; in plain Python types."""
    random = np.random.default_rng([seed, number, zlib.crc32(name.encode())])
    if isinstance(parameter, Choice):
        return parameter.values[int(random.choice(len(parameter.values), p=parameter.probabilities))]
    if parameter.distribution == "int_uniform":
        return int(random.integers(int(parameter.low), int(parameter.high), endpoint=True))
    if parameter.distribution == "log_uniform_values":
        return math.exp(float(random.uniform(math.log(parameter.low), math.log(parameter.high))))
    return float(random.uniform(parameter.low, parameter.high))


def _arguments(values: Mapping[tuple[str, ...], Any]) -> tuple[str, ...]:
    """`--name=value` as W&B's agent writes it: nested parameters are one dict."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        inner = nested
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value
    return tuple(f"--{name}={value}" for name, value in nested.items())
