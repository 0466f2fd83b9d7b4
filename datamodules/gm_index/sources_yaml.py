"""``sources.yaml``: what is known about each source (family, upsampling, normalisation, loss, licence ...)."""

from __future__ import annotations

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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.add(Kind.SOURCES_YAML, f"{path} cannot be parsed: {error}")
        return {}
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
