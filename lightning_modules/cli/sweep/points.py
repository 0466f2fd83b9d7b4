"""The points of a sweep: what each one sets, what it is called, and the command that runs it."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.cli.sweep.file import Sweep, SweepError

_LONGEST_NAME = 100  # file systems take 255 bytes; a reader takes fewer
_ENVIRONMENT = re.compile(r"\$\{envvar:([^}]*)\}")


@dataclass(frozen=True)
class Point:
    """One point of a sweep."""

    settings: Mapping[str, Any]  # of what varies, by the shortest name that tells the parameters apart
    arguments: tuple[str, ...]  # what `${args}` stands for: `--name=value` of every parameter

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


def sweep_points(sweep: Sweep) -> list[Point]:
    """All points of a grid, the last parameter changing fastest; points that are equal count once."""
    paths, names = list(sweep.parameters), sweep.varying()
    points: dict[tuple[str, ...], Point] = {}
    for values in itertools.product(*(parameter.values for parameter in sweep.parameters.values())):
        by_path = dict(zip(paths, values, strict=True))
        arguments = _arguments(by_path)
        points.setdefault(arguments, Point({name: by_path[path] for path, name in names.items()}, arguments))
    return list(points.values())


def command_of(sweep: Sweep, point: Point) -> list[str]:
    """The words of a point's command, as W&B's agent would run it, with this interpreter for `${interpreter}`."""
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


def _arguments(values: Mapping[tuple[str, ...], Any]) -> tuple[str, ...]:
    """`--name=value` as W&B's agent writes it: nested parameters are one dict."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        inner = nested
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value
    return tuple(f"--{name}={value}" for name, value in nested.items())
