"""The images of a GM data set laid out in folders: which file belongs to which source."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd

from datamodules.gm_index.problems import Kind, Problems
from datamodules.image_io import IMAGE_SUFFIXES

SOURCE_NAME = re.compile(r"[A-Za-z0-9]+-[A-Za-z0-9][A-Za-z0-9._+-]*")
_NOTES = (".json", ".jsonl", ".yaml", ".yml", ".md")
ENTRY_COLUMNS = ["path", "source", "role", "split"]


def is_hidden(name: str) -> bool:
    """Names that a data set's author set aside: ``.gm_index``, ``.DS_Store``, ``_old``."""
    return name.startswith((".", "_"))


def entries_frame(rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    """Rows of (path, source, role, split) as a table ordered by path.

    ``role`` is ``manifold`` for reals that only form the manifold and ``source`` for everything with a label; ``split``
    is "" where it is still to be drawn.
    """
    frame = pd.DataFrame(rows, columns=ENTRY_COLUMNS, dtype="str")
    return frame.sort_values("path", kind="stable", ignore_index=True)


def discover_folders(root: Path, problems: Problems) -> pd.DataFrame:
    """List ``root/<family>-<model>/``, ``root/real-<name>/`` and ``root/manifold-<name>/``, with sub-folders.

    Nothing is opened. Names that start with '.' or '_' are left alone.

    Args:
        root: Folder of the data set.
        problems: Takes what is wrong with names and folders.

    Returns:
        Table with the columns of ``entries_frame``; paths are relative to ``root``, with '/'.
    """
    if not root.is_dir():
        problems.add(Kind.MISSING_ROOT, f"{root} is {'a file' if root.exists() else 'not there'}")
        return entries_frame([])
    rows: list[tuple[str, str, str, str]] = []
    folders = 0
    for item in sorted(os.scandir(root), key=lambda entry: entry.name):
        if is_hidden(item.name):
            continue
        if not item.is_dir():
            if item.name.lower().endswith(IMAGE_SUFFIXES):
                problems.add(Kind.LOOSE_IMAGE, item.name)
            continue
        folders += 1
        if not SOURCE_NAME.fullmatch(item.name):
            problems.add(Kind.FOLDER_NAME, f"{item.name}/")
            continue
        files = _list_files(root, item.name, problems)
        if not files:
            problems.add(Kind.EMPTY_SOURCE, f"{item.name}/")
        role = "manifold" if item.name.startswith("manifold-") else "source"
        rows += [(path, item.name, role, "") for path in files]
    if not folders:
        problems.add(Kind.EMPTY_ROOT, f"{root} holds no folder")
    return entries_frame(rows)


def _list_files(root: Path, folder: str, problems: Problems) -> list[str]:
    files = []
    for parent, subfolders, names in os.walk(root / folder, followlinks=False):
        subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
        relative = Path(parent).relative_to(root).as_posix()
        for name in names:
            if is_hidden(name):
                continue
            if name.lower().endswith(IMAGE_SUFFIXES):
                files.append(f"{relative}/{name}")
            elif not name.lower().endswith(_NOTES):
                problems.add(Kind.NOT_AN_IMAGE, f"{relative}/{name}")
    return files
