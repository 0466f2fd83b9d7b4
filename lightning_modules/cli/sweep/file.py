"""A W&B sweep file, read and checked before anything runs.

The file's meaning is W&B's, so that `wandb sweep FILE` accepts the same file: `method`, `program`, `command`, `metric`
and `parameters`, each with `value`, `values` or `parameters` of its own. Grids are walked here; random and Bayesian
sweeps are for W&B's server, and refused with that reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.cli.parser import nearest_keys

COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
"""What W&B runs where a file has no `command`."""
_KEYS = (
    "program", "method", "parameters", "command", "metric", "name", "description", "project", "entity",
)  # fmt: skip
_PARAMETER_KEYS = ("value", "values", "parameters")
_SERVER_KEYS = ("probabilities", "distribution", "min", "max")
_METRIC_KEYS = ("name", "goal", "target")
_MACRO = re.compile(r"\$\{([^}]*)\}")


class SweepError(ValueError):
    """A sweep file, or a request for one, that cannot be run; the message is one line for the user."""


@dataclass(frozen=True)
class Choice:
    """A parameter that takes one of several values.

    A list of one is not `fixed`: it is part of a point's name, so the list can grow and the point keeps its folder.
    """

    values: tuple[Any, ...]  # at least one
    fixed: bool = False  # whether the file gives a `value`, no list


@dataclass(frozen=True)
class Sweep:
    """A sweep file."""

    path: Path
    program: str  # the script that every point runs
    metric: str | None  # what the sweep is about; None where the file has none
    command: tuple[str, ...]  # words of a point's command, with W&B's macros
    parameters: Mapping[tuple[str, ...], Choice]  # what varies and what is fixed, by path

    def varying(self) -> dict[tuple[str, ...], str]:
        """Parameters that the file gives lists for, by path, with the last dotted part as name.

        Where two names would be alike, all of the path is the name.
        """
        varying = [path for path, entry in self.parameters.items() if not entry.fixed]
        ends = [path[-1].rpartition(".")[2] for path in varying]
        return {path: end if ends.count(end) == 1 else ".".join(path) for path, end in zip(varying, ends, strict=True)}


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file; a SweepError names the key that cannot be run here and what it should be."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: cannot be read ({error}); expected a W&B sweep file (configs/sweeps)") from error
    except yaml.YAMLError as error:
        raise SweepError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise SweepError(f"{path} holds a {type(content).__name__}, expected a mapping with {', '.join(_KEYS[:3])}")
    try:
        return _checked(path, content)
    except SweepError as error:
        raise SweepError(f"{path}: {error}") from error


def _checked(path: Path, content: dict[str, Any]) -> Sweep:
    _known(content, (*_KEYS, "run_cap", "early_terminate"), "")
    program, method = content.get("program"), content.get("method")
    if not isinstance(program, str) or not program:
        raise SweepError(f"found program {program!r}, expected the script to run: `program: train.py`")
    if method in ("bayes", "random") or content.get("early_terminate"):
        what = "early_terminate" if content.get("early_terminate") else f"method {method}"
        raise SweepError(
            f"{what} needs W&B's server: start the file with `wandb sweep` and `wandb agent`, or list the values of a "
            "grid here"
        )
    if method != "grid":
        raise SweepError(f"found method {method!r}, expected grid")
    found = content.get("parameters")
    if not isinstance(found, dict) or not found:
        raise SweepError(f"found parameters {found!r}, expected a mapping: `model.init_args.sigma: {{values: [1, 2]}}`")
    return Sweep(
        path,
        program,
        _metric(content.get("metric")),
        _command(content.get("command", list(COMMAND))),
        _parameters(found, ()),
    )


def _known(found: Mapping[Any, Any], keys: tuple[str, ...], where: str) -> None:
    for key in found:
        if key not in keys:
            near = nearest_keys(str(key), list(keys))
            hint = f"did you mean {' or '.join(near)}?" if near else f"expected {', '.join(keys)}"
            raise SweepError(f"unknown key '{where}{key}': {hint}")


def _metric(found: Any) -> str | None:
    if found is None:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise SweepError(f"found metric {found!r}, expected `metric: {{name: test/accuracy, goal: maximize}}`")
    _known(found, _METRIC_KEYS, "metric.")
    if found.get("goal", "minimize") not in ("minimize", "maximize"):
        raise SweepError(f"found metric.goal {found['goal']!r}, expected minimize or maximize")
    return str(found["name"])


def _command(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not found:
        raise SweepError(f"found command {found!r}, expected a list of words, such as {list(COMMAND)}")
    words = tuple(str(word) for word in found)
    for word in words:
        for macro in _MACRO.findall(word):
            whole = word == f"${{{macro}}}" and word in COMMAND
            if not whole and not macro.startswith("envvar:"):
                raise SweepError(f"found {word} in command, expected {', '.join(COMMAND)} as whole words")
    for macro in ("${program}", "${args}"):
        if words.count(macro) != 1:
            raise SweepError(f"found {words.count(macro)} times {macro} in command, expected it once")
    return words


def _parameters(found: dict[Any, Any], above: tuple[str, ...]) -> dict[tuple[str, ...], Choice]:
    parameters: dict[tuple[str, ...], Choice] = {}
    for name, entry in found.items():
        path = (*above, str(name))
        if not isinstance(entry, dict):
            raise SweepError(f"parameter {'.'.join(path)} is {entry!r}, expected `value: {entry!r}` below its name")
        _known(entry, (*_PARAMETER_KEYS, *_SERVER_KEYS), f"parameters.{'.'.join(path)}.")
        if isinstance(entry.get("parameters"), dict) and entry["parameters"]:
            if len(entry) > 1:
                raise SweepError(f"parameter {'.'.join(path)} has both parameters and values of its own")
            parameters |= _parameters(entry["parameters"], path)
        else:
            parameters[path] = _parameter(entry, ".".join(path))
    return parameters


def _parameter(entry: dict[str, Any], name: str) -> Choice:
    if drawn := [key for key in _SERVER_KEYS if key in entry]:
        raise SweepError(f"parameter {name} has {' and '.join(drawn)}, which a grid cannot walk: list its values")
    if len(entry) != 1:
        raise SweepError(f"parameter {name} has {sorted(entry)}, expected one of value and values")
    if "value" in entry:
        return Choice((entry["value"],), fixed=True)
    values = entry.get("values")
    if not isinstance(values, list) or not values:
        raise SweepError(f"parameter {name} has values {values!r}, expected a list with at least one")
    return Choice(tuple(values))
