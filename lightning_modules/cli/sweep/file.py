"""A W&B sweep file, read and checked before anything runs.

The file's meaning is W&B's, so that `wandb sweep FILE` accepts the same file: `method`, `program`, `command`, `metric`
and `parameters`, each with `value`, `values`, `min` and `max`, or `parameters` of its own. What needs W&B's server is
refused with a reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.cli.parser import nearest_keys

COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
"""What W&B runs where a file has no `command`."""
DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")
_KEYS = (
    "program", "method", "parameters", "command", "metric", "run_cap", "name", "description", "project", "entity",
    "early_terminate",
)  # fmt: skip
_PARAMETER_KEYS = ("value", "values", "probabilities", "distribution", "min", "max", "parameters")
_METRIC_KEYS = ("name", "goal", "target")
_MACRO = re.compile(r"\$\{([^}]*)\}")


class SweepError(ValueError):
    """A sweep file, or a request for one, that cannot be run; the message is one line for the user."""


@dataclass(frozen=True)
class Choice:
    """A parameter that takes one of several values.

    Attributes:
        values: at least one.
        probabilities: of each value in a random sweep; None where all are alike.
        fixed: whether the file gives a `value`, no list; a list of one is part of a point's name, so that the list can
            grow and the point keeps its folder.
    """

    values: tuple[Any, ...]
    probabilities: tuple[float, ...] | None = None
    fixed: bool = False


@dataclass(frozen=True)
class Range:
    """A number drawn from `low` to `high`: one of `DISTRIBUTIONS`."""

    distribution: str
    low: float
    high: float


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        path: where it was read.
        program: the script that every point runs.
        method: `grid` or `random`.
        metric: name of the metric that the sweep is about; None where the file has none.
        command: words of a point's command, with W&B's macros.
        parameters: what varies and what is fixed, by path: `("model.init_args.sigma",)`, longer where it is nested.
        run_cap: most points of a random sweep; None where the file does not say.
    """

    path: Path
    program: str
    method: str
    metric: str | None
    command: tuple[str, ...]
    parameters: Mapping[tuple[str, ...], Choice | Range]
    run_cap: int | None

    def varying(self) -> dict[tuple[str, ...], str]:
        """Parameters that the file gives lists or ranges for, by path, with the last dotted part as name.

        Where two names would be alike, all of the path is the name.
        """
        varying = [path for path, entry in self.parameters.items() if isinstance(entry, Range) or not entry.fixed]
        ends = [path[-1].rpartition(".")[2] for path in varying]
        return {path: end if ends.count(end) == 1 else ".".join(path) for path, end in zip(varying, ends, strict=True)}


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        SweepError: there is no such file, or it cannot be run here; the message names the key and what it should be.
    """
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
    _known(content, _KEYS, "")
    program, method = content.get("program"), content.get("method")
    if not isinstance(program, str) or not program:
        raise SweepError(f"found program {program!r}, expected the script to run: `program: train.py`")
    if method == "bayes":
        raise SweepError(
            "method bayes chooses each point by the results of earlier ones, which W&B's server does: start it with "
            "`wandb sweep` and `wandb agent`, or use grid or random here"
        )
    if method not in ("grid", "random"):
        raise SweepError(f"found method {method!r}, expected grid or random")
    if content.get("early_terminate"):
        raise SweepError(
            "early_terminate is done by W&B's server; remove it here, or start the file with `wandb sweep`"
        )
    run_cap = content.get("run_cap")
    if run_cap is not None and (not isinstance(run_cap, int) or isinstance(run_cap, bool) or run_cap < 1):
        raise SweepError(f"found run_cap {run_cap!r}, expected a whole number from 1 on")
    found = content.get("parameters")
    if not isinstance(found, dict) or not found:
        raise SweepError(f"found parameters {found!r}, expected a mapping: `model.init_args.sigma: {{values: [1, 2]}}`")
    return Sweep(
        path,
        program,
        method,
        _metric(content.get("metric")),
        _command(content.get("command", list(COMMAND))),
        _parameters(found, (), method),
        run_cap,
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


def _parameters(found: dict[Any, Any], above: tuple[str, ...], method: str) -> dict[tuple[str, ...], Choice | Range]:
    parameters: dict[tuple[str, ...], Choice | Range] = {}
    for name, entry in found.items():
        path = (*above, str(name))
        if not isinstance(entry, dict):
            raise SweepError(f"parameter {'.'.join(path)} is {entry!r}, expected `value: {entry!r}` below its name")
        _known(entry, _PARAMETER_KEYS, f"parameters.{'.'.join(path)}.")
        if isinstance(entry.get("parameters"), dict) and entry["parameters"]:
            if len(entry) > 1:
                raise SweepError(f"parameter {'.'.join(path)} has both parameters and values of its own")
            parameters |= _parameters(entry["parameters"], path, method)
        else:
            parameters[path] = _parameter(entry, ".".join(path), method)
    return parameters


def _parameter(entry: dict[str, Any], name: str, method: str) -> Choice | Range:
    kinds = [kind for kind in ("value", "values", "min") if kind in entry]
    if len(kinds) != 1 or ("min" in entry) != ("max" in entry):
        raise SweepError(f"parameter {name} has {sorted(entry)}, expected one of value, values, or min and max")
    if kinds[0] == "value":
        return Choice((entry["value"],), fixed=True)
    if kinds[0] == "values":
        return _choice(entry, name)
    if method == "grid":
        raise SweepError(f"parameter {name} has min and max, which a grid cannot walk: list its values")
    return _range(entry, name)


def _choice(entry: dict[str, Any], name: str) -> Choice:
    values, probabilities = entry["values"], entry.get("probabilities")
    if not isinstance(values, list) or not values:
        raise SweepError(f"parameter {name} has values {values!r}, expected a list with at least one")
    if probabilities is None:
        return Choice(tuple(values))
    if (
        not isinstance(probabilities, list)
        or len(probabilities) != len(values)
        or not all(_number(share) and share >= 0 for share in probabilities)
        or not math.isclose(sum(probabilities), 1.0, abs_tol=1e-6)
    ):
        raise SweepError(f"parameter {name} has probabilities {probabilities!r}, expected one per value, of sum 1")
    return Choice(tuple(values), tuple(probabilities))


def _range(entry: dict[str, Any], name: str) -> Range:
    low, high = entry["min"], entry["max"]
    if not _number(low) or not _number(high) or not low < high:
        raise SweepError(
            f"parameter {name} has min {low!r} and max {high!r}, expected numbers, min below max (write 1.0e-3: YAML "
            "reads 1e-3 as text)"
        )
    whole = isinstance(low, int) and isinstance(high, int)
    distribution = entry.get("distribution", "int_uniform" if whole else "uniform")
    if distribution not in DISTRIBUTIONS:
        raise SweepError(f"parameter {name} has distribution {distribution!r}, expected {', '.join(DISTRIBUTIONS)}")
    if distribution == "int_uniform" and not whole:
        raise SweepError(f"parameter {name} is int_uniform with min {low} and max {high}, expected whole numbers")
    if distribution == "log_uniform_values" and low <= 0:
        raise SweepError(f"parameter {name} is log_uniform_values with min {low}, expected a min above 0")
    return Range(distribution, low, high)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
