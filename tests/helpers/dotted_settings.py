"""Settings of a module by dotted name, so that a test changes one of a group."""

from __future__ import annotations

from typing import Any


def grouped(settings: dict[str, Any]) -> dict[str, Any]:
    """`{"key.bits": 4, "kind": "auto"}` as `{"key": {"bits": 4}, "kind": "auto"}`."""
    made: dict[str, Any] = {}
    for name, value in settings.items():
        group, _, inner = name.rpartition(".")
        (made.setdefault(group, {}) if group else made)[inner] = value
    return made
