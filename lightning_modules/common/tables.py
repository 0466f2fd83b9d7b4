"""Plug-ins by name: a table of `name -> "module:attribute"`, and the suggestion of the nearest name.

Adding a member to a package is one file and one line in that package's table; the member is imported when it is asked
for, so that a table costs nothing at start-up.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Up to three known names that look like `name`: `did you mean train or test?`; else what `otherwise` says."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def check_name(what: str, name: object, known: Iterable[str]) -> str:
    """Return a name that is known; `what` it is of is for the message: `attack`, `option of the decoder paper`.

    Raises:
        ValueError: another name; the message suggests the nearest ones, or lists all.
    """
    names = list(known)
    if isinstance(name, str) and name in names:
        return name
    hint = did_you_mean(str(name), names) or f"expected {'one of ' + ', '.join(names) if names else 'none'}"
    raise ValueError(f"found {what} {name!r}; {hint}")


Choice = str | dict[str, Any]
"""How a config names a member: its name, or a mapping of `name` and the arguments of its class."""


class Table(Mapping[str, str]):
    """Plug-ins of one kind.

    Args:
        what: what a member is, for messages: `embedding`.
        members: where each member is defined, `module:attribute`, by its name.
    """

    def __init__(self, what: str, members: Mapping[str, str]) -> None:
        self.what = what
        self.members = dict(members)

    def __getitem__(self, name: str) -> str:
        return self.members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def load(self, name: str) -> Any:
        """Import a member: the class or function that its line names.

        Raises:
            ValueError: no such member; the message suggests the nearest.
        """
        module, _, attribute = self.members[check_name(self.what, name, self.members)].partition(":")
        return getattr(import_module(module), attribute)

    def build(self, choice: Choice) -> Any:
        """Make a member: call the class that its line names, with the arguments of `choice`.

        Raises:
            ValueError: no such member, or an argument that it does not take; the message suggests the nearest.
        """
        arguments = {"name": choice} if isinstance(choice, str) else dict(choice)
        name = arguments.pop("name", "")
        member = self.load(name)
        taken = inspect.signature(member).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
            for argument in arguments:
                check_name(f"argument of {self.what} {name}", argument, taken)
        return member(**arguments)
