"""Parsers whose complaint about a mistake is one line that names the nearest valid word."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import jsonargparse

from lightning_modules.cli.processes import speak
from lightning_modules.cli.trusted_classes import denied_class
from lightning_modules.common.shipped import program
from lightning_modules.common.tables import did_you_mean

_UNKNOWN = re.compile(
    r"[Uu]nrecognized arguments: --(?P<argument>[\w.]+)"
    r"|[Oo]ption ['\"](?P<option>[\w.]+)['\"] is not accepted"
    r"|[Kk]ey ['\"](?P<key>[\w.]+)['\"] is not expected"
    r"|does not accept option ['\"](?P<member>[\w.]+)"
)
_SUGGESTED = re.compile(r"unknown key '.*$", re.MULTILINE)
_CHOICE = re.compile(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<choices>.*)\)")


def nearest_keys(key: str, candidates: Iterable[str]) -> list[str]:
    """Up to three candidates that look like ``key``, the best first; the last dotted part decides.

    One that differs in dots alone is the only one: `decoder_options` means `decoder.options`.
    """
    names = list(candidates)
    if same := [name for name in names if name.replace(".", "_") == key.replace(".", "_")]:
        return same[:1]
    by_leaf: dict[str, str] = {}
    for candidate in names:
        by_leaf.setdefault(candidate.rpartition(".")[2], candidate)
    near = difflib.get_close_matches(key.rpartition(".")[2], list(by_leaf), n=3, cutoff=0.6)
    return [by_leaf[match] for match in near]


def unknown_key(key: str, candidates: Iterable[str]) -> str:
    """The complaint about an unknown key."""
    near = nearest_keys(key, candidates)
    hint = f"did you mean {' or '.join(near)}?" if near else "see --help for the keys there are"
    return f"unknown key '{key}': {hint}"


class CommandParser(argparse.ArgumentParser):
    """The parser of a command that reads no config: options in full, a mistake in one line with status 2."""

    def __init__(self, command: str = "", description: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("prog", program(command))
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with status 2."""
        if (choice := _CHOICE.search(message)) is not None:
            choices = re.findall(r"'([^']*)'", choice["choices"])
            hint = did_you_mean(choice["given"], choices, f"expected one of {', '.join(choices)}")
            message = f"unknown {message.partition(':')[0].removeprefix('argument ')} {choice['given']!r}: {hint}"
        elif (unknown := _UNKNOWN.search(message)) is not None:
            options = [option.lstrip("-") for action in self._actions for option in action.option_strings]
            message = unknown_key(str(unknown["argument"]), options)
        speak(f"{self.prog}: error: {message}")
        raise SystemExit(2)


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "a mapping, such as '{name: value}'",
    "list": "a list, such as '[one, two]'",
    "str": "text",
}


_STRUCTURE = (
    "Parser key",
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "- Problem with given class_path",
    "Given value",
)
_KIND = re.compile(r"(?:- )?Expected an? <class '(\w+)'>(?:\. Got value: (?P<value>.*))?")


def _wrong_type(message: str) -> str | None:
    """One line in place of jsonargparse's tree of attempts, where a value is of the wrong type; else None.

    None as well where one of the attempts says more than that it expected a plain type.
    """
    lines = [line.strip() for line in message.splitlines()]
    keys = [(number, line.split('"')[1]) for number, line in enumerate(lines) if line.startswith('Parser key "')]
    attempts = [found for line in lines if (found := _KIND.fullmatch(line))]
    structure = sum(line.startswith(_STRUCTURE) for line in lines)
    if not keys or len(attempts) + structure < len(lines):
        return None
    place, key = keys[-1]
    inner = lines[place + 1 :]
    kinds = [found[1] for line in inner if (found := _KIND.fullmatch(line))]
    values = [found["value"] for line in inner if (found := _KIND.fullmatch(line)) and found["value"]]
    values += [line.removeprefix("Given value: ") for line in inner if line.startswith("Given value: ")]
    plain = list(dict.fromkeys(kind for kind in kinds if kind != "NoneType"))
    if not values or not plain or not set(plain) <= set(_KINDS) or inner.count("Errors:") > 1:
        return None
    null = " or null" if "NoneType" in kinds or any("'NoneType'" in line for line in inner[:2]) else ""
    return f"found {key} {values[0]}, expected {' or '.join(_KINDS[kind] for kind in plain)}{null}"


class Suggesting:
    """Part of a jsonargparse parser: one line for an unknown key, what was found and the nearest valid key."""

    prog: str
    exit_on_error: bool
    _actions: list[argparse.Action]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and leave with status 2 (a nested parser raises, and the outer one reports)."""
        suggested, unknown = _SUGGESTED.search(message), _UNKNOWN.search(message)
        if (refused := denied_class(message)) is not None and self.exit_on_error:
            raise SystemExit(f"{self.prog}: {refused}")
        if suggested is not None:
            message = suggested.group()  # a nested parser, which knows the class's own arguments, has said it
        elif unknown is not None:
            key = next(name for name in unknown.groups() if name)
            valid = [action.dest for action in self._actions if action.dest not in ("help", "print_config")]
            message = unknown_key(key, valid)
        elif "required: " in message and "model" in message:
            message += "; name an experiment with --config, such as configs/quickstart.yaml"
        elif "Expected a <class 'NoneType'>" in message:  # the other half of "a datamodule or null" says nothing
            message = re.sub(r"\s*- Expected a <class 'NoneType'>", "", message)
        if (plain := _wrong_type(message)) is not None and self.exit_on_error:
            message = plain
        if not self.exit_on_error:
            super().error(message, ex)  # type: ignore[misc]  # of the parser that this is mixed into
        speak(f"{self.prog}: error: {message} (--help lists the options)")
        raise SystemExit(2)


class SuggestingParser(Suggesting, jsonargparse.ArgumentParser):
    """A jsonargparse parser that suggests keys."""
