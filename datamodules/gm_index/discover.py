"""The images of a GM data set laid out in folders: which file belongs to which source."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd

from datamodules.gm_index.problems import Kind, Problems
from datamodules.image_io import is_image_file, path_text
from datamodules.image_search import LeftOut, find_images, left_out_text

SOURCE_NAME = re.compile(r"[A-Za-z0-9]+-[A-Za-z0-9][A-Za-z0-9._+-]*")
SET_ASIDE = (".", "_")  # folders that a data set's author set aside: .gm_index, .git, _old
ENTRY_COLUMNS = ["path", "source", "role", "split"]


def entries_frame(rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    """Rows of (path, source, role, split) as a table ordered by path.

    ``role`` is ``manifold`` for reals that only form the manifold and ``source`` for everything with a label; ``split``
    is "" where it is still to be drawn.
    """
    frame = pd.DataFrame(rows, columns=ENTRY_COLUMNS, dtype="str")
    return frame.sort_values("path", kind="stable", ignore_index=True)


def discover_folders(root: Path, problems: Problems, left_out: list[LeftOut] | None = None) -> pd.DataFrame:
    """List ``root/<family>-<model>/``, ``root/real-<name>/`` and ``root/manifold-<name>/``, with sub-folders.

    Folders whose names begin with '.' or '_' are left alone; files are images by suffix or content (``find_images``).

    Args:
        root: Folder of the data set.
        problems: Takes what is wrong with names and folders.
        left_out: Takes the files of source folders that are not read.

    Returns:
        Table with the columns of ``entries_frame``; paths are relative to ``root``, with '/', as ``path_text`` writes
        them.
    """
    if not root.is_dir():
        problems.add(Kind.MISSING_ROOT, f"{path_text(root)} is {'a file' if root.exists() else 'not there'}")
        return entries_frame([])
    rows: list[tuple[str, str, str, str]] = []
    folders = 0
    for item in sorted(os.scandir(root), key=lambda entry: entry.name):
        name = path_text(item.name)
        if not item.is_dir():
            if not item.name.startswith(".") and is_image_file(item.path):
                problems.add(Kind.LOOSE_IMAGE, name)
            continue
        if item.name.startswith(SET_ASIDE):
            continue
        folders += 1
        if not SOURCE_NAME.fullmatch(item.name):
            problems.add(Kind.FOLDER_NAME, f"{name}/")
            continue
        found = find_images(root / item.name, SET_ASIDE)
        for folder in found.unreadable:
            problems.add(Kind.UNREADABLE, f"{folder.path}: {folder.reason}")
        if left_out is not None:
            left_out += found.left_out
        if not found.files:
            others = f" (left out: {left_out_text(found.left_out)})" if found.left_out else ""
            problems.add(Kind.EMPTY_SOURCE, f"{name}/{others}")
        role = "manifold" if name.startswith("manifold-") else "source"
        start = len(os.fspath(root).rstrip("/")) + 1
        rows += [(path_text(os.fspath(file)[start:]), name, role, "") for file in found.files]
    if not folders:
        problems.add(Kind.EMPTY_ROOT, f"{path_text(root)} holds no folder")
    return entries_frame(rows)
