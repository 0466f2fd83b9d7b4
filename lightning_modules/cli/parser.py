"""A LightningCLI parser whose complaint about an unknown key names the nearest valid one."""

from __future__ import annotations

import difflib
import re
import sys
from typing import Any, NoReturn

import yaml
from pytorch_lightning.cli import LightningArgumentParser

from lightning_modules.fingerprints.settings import current_config

_UNKNOWN = re.compile(
    r"[Uu]nrecognized arguments: --(?P<argument>[\w.]+)"
    r"|[Oo]ption ['\"](?P<option>[\w.]+)['\"] is not accepted"
    r"|[Kk]ey ['\"](?P<key>[\w.]+)['\"] is not expected"
    r"|does not accept option ['\"](?P<member>[\w.]+)"
)
_SUGGESTED = re.compile(r"unknown key '.*$", re.MULTILINE)


def nearest_keys(key: str, candidates: list[str]) -> list[str]:
    """Up to three candidates that look like ``key``, the best first; the last dotted part decides."""
    by_leaf: dict[str, str] = {}
    for candidate in candidates:
        by_leaf.setdefault(candidate.rpartition(".")[2], candidate)
    near = difflib.get_close_matches(key.rpartition(".")[2], list(by_leaf), n=3, cutoff=0.6)
    return [by_leaf[match] for match in near]


class SuggestingParser(LightningArgumentParser):
    """LightningCLI's parser with one line for an unknown key: what was found, and the nearest valid key."""

    def parse_args(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:
        """Parse arguments; jsonargparse hands a null within a group of settings on as Python writes it."""
        if isinstance(args, list):
            args = [f"{word[:-4]}null" if word.endswith("=None") else word for word in args]
        return super().parse_args(args, *others, **kwargs)

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parse a config; a run of an older version has its settings translated."""
        try:
            config = yaml.safe_load(content)
        except yaml.YAMLError:
            config = None  # what is wrong with it is said below
        if (current := current_config(config)) is not config:
            content = yaml.safe_dump(current, sort_keys=False)
        return super().parse_string(content, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and leave with status 2 (a nested parser raises, and the outer one reports)."""
        suggested, unknown = _SUGGESTED.search(message), _UNKNOWN.search(message)
        if suggested is not None:
            message = suggested.group()  # a nested parser, which knows the class's own arguments, has said it
        elif unknown is not None:
            key = next(name for name in unknown.groups() if name)
            valid = [action.dest for action in self._actions if action.dest not in ("help", "print_config")]
            near = nearest_keys(key, valid)
            hint = f"did you mean {' or '.join(near)}?" if near else "see --help for the keys there are"
            message = f"unknown key '{key}': {hint}"
        elif "required: " in message and "model" in message:
            message += "; name an experiment with --config, such as configs/quickstart.yaml"
        elif "Expected a <class 'NoneType'>" in message:  # the other half of "a datamodule or null" says nothing
            message = re.sub(r"\s*- Expected a <class 'NoneType'>", "", message)
        if not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"{self.prog}: error: {message}\n(--help lists the options, --print_config shows a config)\n")
        raise SystemExit(2)
