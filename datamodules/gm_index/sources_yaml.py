"""``sources.yaml``: what is known about each source (family, upsampling, normalisation, loss, licence ...)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from datamodules.gm_index.problems import Kind, Problems


def read_sources_yaml(folder: Path, names: set[str], problems: Problems) -> dict[str, dict[str, Any]]:
    """Read ``folder/sources.yaml`` if it is there, with the safe loader.

    Args:
        folder: Folder of the data set.
        names: Sources and manifold folders found in the data set.
        problems: Takes a file that is no mapping and entries without a folder.

    Returns:
        Entry of each source, {} without a file. The mapping may stand at the top of the file or under the key
        ``sources``.
    """
    path = folder / "sources.yaml"
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.add(Kind.SOURCES_YAML, f"{path} cannot be parsed: {error}")
        return {}
    for name in _named_twice(yaml.compose(text, Loader=yaml.SafeLoader)):
        problems.add(Kind.SOURCES_YAML, f"{name!r} stands there more than once, and only the last would count")
    if isinstance(content, dict) and isinstance(content.get("sources"), dict):
        content = content["sources"]
    if not isinstance(content, dict):
        problems.add(Kind.SOURCES_YAML, f"{path} holds {type(content).__name__}, not a mapping")
        return {}
    entries = {}
    for name, entry in content.items():
        if name not in names:
            problems.add(Kind.SOURCES_YAML, f"{name!r} is described, but there are no images of it")
        elif not isinstance(entry, dict):
            problems.add(Kind.SOURCES_YAML, f"{name!r} is described by {entry!r}, not by a mapping")
        else:
            entries[name] = entry
    return entries


def _named_twice(node: yaml.Node | None) -> list[str]:
    """Names that stand twice in one mapping, at any depth."""
    if isinstance(node, yaml.SequenceNode):
        return [name for item in node.value for name in _named_twice(item)]
    if not isinstance(node, yaml.MappingNode):
        return []
    names = Counter(str(key.value) for key, _ in node.value)
    inside = [name for _, value in node.value for name in _named_twice(value)]
    return [name for name, count in names.items() if count > 1] + inside
