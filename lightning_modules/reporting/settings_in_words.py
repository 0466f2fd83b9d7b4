"""Settings by dotted key put together again, and told in a few words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def nested(settings: Mapping[str, Any], key: str) -> Any:
    """What stands at a key, or below it, of settings that `runs.flat_settings` has made; None for nothing."""
    if key in settings:
        return settings[key]
    parts: dict[str, Any] = {}
    for name in settings:
        if name.startswith(f"{key}."):
            part = name.removeprefix(f"{key}.").partition(".")[0]
            parts.setdefault(part, nested(settings, f"{key}.{part}"))
    if not parts:
        return None
    return list(parts.values()) if all(part.isdecimal() for part in parts) else parts


def in_words(value: Any) -> str:
    """A setting as one reads it: what has a name by its name, with what else is set of it; lists as sums."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        title = next((str(value[key]) for key in ("name", "kind") if value.get(key) is not None), "")
        others = [f"{key} {in_words(item)}" for key, item in value.items() if key not in ("name", "kind")]
        told = ", ".join(others)
        return f"{title} ({told})" if title and told else title or told
    if isinstance(value, Sequence) and value:
        return " + ".join(map(in_words, value))
    return json.dumps(value, default=str)


def attack_in_words(value: Any) -> str:
    """An attack, or several in order, by what it is called; a mixture or a chain by what it draws from."""
    if isinstance(value, Mapping):
        title = str(value.get("name") or value.get("kind"))
        drawn = value.get("attacks")
        return f"{title} of {attack_in_words(drawn)}" if drawn else title
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(attack_in_words, value))
    return str(value)


def put_together(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same settings, where one gives a value at a key below which another has several: these in words, at that key.

    `representation: raw` of one run and `representation.name`, `representation.embedding.name` of another become one
    setting, `representation`.
    """
    keys = {key for each in settings for key in each}
    parents = {
        parent for key in keys for parent in _parents(key) if parent in keys
    }  # a value here, several settings there
    made = []
    for each in settings:
        kept = {key: value for key, value in each.items() if not parents & {key, *_parents(key)}}
        together = {parent: nested(each, parent) for parent in parents if not parents & set(_parents(parent))}
        made.append({**kept, **{key: in_words(value) for key, value in together.items() if value is not None}})
    return made


def _parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
