"""A LightningCLI parser whose complaint about an unknown key names the nearest valid one."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

_UNKNOWN = (
    re.compile(r"[Kk]ey ['\"](?P<key>[\w.]+)['\"] is not expected"),
    re.compile(r"[Uu]nrecognized arguments: --(?P<key>[\w.]+)"),
    re.compile(r"No action for key ['\"](?P<key>[\w.]+)['\"]"),
    re.compile(r"[Oo]ption ['\"](?P<key>[\w.]+)['\"] is not accepted"),
)
_CLASS_PATH = re.compile(r"(?<![\w.])((?:lightning_modules|datamodules|pytorch_lightning)(?:\.\w+)*\.[A-Z]\w*)")


def _constructor_arguments(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        owner: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return []
    return [name for name in inspect.signature(owner.__init__).parameters if name not in ("self", "args", "kwargs")]


def nearest_keys(key: str, candidates: list[str]) -> list[str]:
    """Up to three candidates that look like ``key``, the best first; the last dotted part decides."""
    leaf = key.rpartition(".")[2]
    by_leaf: dict[str, str] = {}
    for candidate in candidates:
        by_leaf.setdefault(candidate.rpartition(".")[2], candidate)
    return [by_leaf[match] for match in difflib.get_close_matches(leaf, list(by_leaf), n=3, cutoff=0.5)]


class SuggestingParser(LightningArgumentParser):
    """LightningCLI's parser with a "did you mean" line."""

    def valid_keys(self) -> list[str]:
        """Dotted names of every option that this parser itself knows."""
        return [action.dest for action in self._actions if action.dest not in ("help", "print_config")]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message with suggestions for an unknown key and leave with status 2."""
        found = next((match for pattern in _UNKNOWN if (match := pattern.search(message))), None)
        if found is not None:
            key = found.group("key")
            candidates = self.valid_keys()
            for class_path in _CLASS_PATH.findall(message):
                candidates = _constructor_arguments(class_path) + candidates
            near = nearest_keys(key, candidates)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see --help for the keys there are."
            message = f"{message}\nUnknown key {key!r}: {hint}"
        super().error(message, ex)
        raise SystemExit(2)  # the parent has left already; this line tells the type checker so


__all__ = ["SuggestingParser", "nearest_keys"]
