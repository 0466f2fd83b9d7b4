"""The images of a GM data set laid out in folders: which file belongs to which source."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml

from datamodules.gm_index.file_index import read_parquet
from datamodules.images.image_io import is_image_file, path_text, text_path
from datamodules.images.image_search import LeftOut, find_images, left_out_text
from datamodules.images.problems import Kind, Problems

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
    What is wrong with names and folders goes to ``problems``, files that are not read to ``left_out``.

    Returns:
        Table as of ``entries_frame``; paths are relative to ``root``, with '/', as ``path_text`` writes them.
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


def read_sources_yaml(folder: Path, names: set[str], problems: Problems) -> dict[str, dict[str, Any]]:
    """Entry of each source in ``folder/sources.yaml``, read with the safe loader; {} without a file.

    A file ``designs.yaml`` beside it, of the same form, adds to the entries: the design choices of a user's generators.

    They may stand at the top of the file or under the key ``sources``. ``problems`` takes a file that is no mapping,
    and entries that are not of ``names``, the sources and manifold folders found.
    """
    entries = _read_yaml(folder / "sources.yaml", names, problems)
    for name, choices in _read_yaml(folder / "designs.yaml", names, problems).items():
        entries[name] = {**entries.get(name, {}), **choices}
    return entries


def _read_yaml(path: Path, names: set[str], problems: Problems) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.add(Kind.SOURCES_YAML, f"{path} cannot be parsed: {error}")
        return {}
    for name in _named_twice(yaml.compose(text, Loader=yaml.SafeLoader)):
        problems.add(
            Kind.SOURCES_YAML, f"{path.name}: {name!r} stands there more than once, and only the last would count"
        )
    if isinstance(content, dict) and isinstance(content.get("sources"), dict):
        content = content["sources"]
    if not isinstance(content, dict):
        problems.add(Kind.SOURCES_YAML, f"{path} holds {type(content).__name__}, not a mapping")
        return {}
    entries = {}
    for name, entry in content.items():
        if name not in names:
            problems.add(Kind.SOURCES_YAML, f"{path.name}: {name!r} is described, but there are no images of it")
        elif not isinstance(entry, dict):
            problems.add(Kind.SOURCES_YAML, f"{path.name}: {name!r} is described by {entry!r}, not by a mapping")
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


GIVEN_SPLITS = ("train", "val", "test", "manifold")


def _read_table(index_file: Path, problems: Problems, column: str | None) -> pd.DataFrame | None:
    if not index_file.is_file():
        problems.add(Kind.INDEX_FILE, f"{index_file} is {'a folder' if index_file.exists() else 'not there'}")
        return None
    try:
        match index_file.suffix.lower():
            case ".csv":
                table = pd.read_csv(index_file, dtype=str, keep_default_na=False)
            case ".parquet":
                table = read_parquet(index_file).to_pandas()
            case suffix:
                problems.add(Kind.INDEX_FILE, f"{index_file} ends with {suffix!r}")
                return None
    except (ValueError, OSError, pa.ArrowException) as error:  # pandas' parser errors are ValueErrors
        problems.add(Kind.INDEX_FILE, f"{index_file} cannot be read: {error}")
        return None
    if missing := " and ".join(name for name in ("path", "source") if name not in table.columns):
        found = ", ".join(map(str, table.columns)) or "none"
        problems.add(Kind.INDEX_FILE, f"{index_file} lacks the column {missing}; its columns are: {found}")
        return None
    if table.empty:
        problems.add(Kind.INDEX_FILE, f"{index_file} has no rows")
        return None
    if column is not None and column not in table.columns:
        found = ", ".join(map(str, table.columns))
        problems.add(Kind.INDEX_FILE, f"{index_file} lacks the column {column} of train_where; its columns: {found}")
        return None
    shown = table[column] if column is not None else ""
    table = table.reindex(columns=["path", "source", "split", "group"], fill_value="").assign(semantic=shown)
    return table.fillna("").astype(str).map(str.strip)


def read_index_file(index_file: Path, base: Path, problems: Problems, column: str | None = None) -> pd.DataFrame:
    """Read and check a CSV or Parquet table: ``path``, ``source`` and optionally ``split`` and ``group``.

    Returns:
        Table as of ``entries_frame``, of the rows without a problem, and ``group`` ("" for an image that is in none);
        with a ``column`` that says what images show, that as ``semantic``.
    """
    table = _read_table(index_file, problems, column)
    if table is None:
        return entries_frame([])
    with_split = bool((table["split"] != "").any())
    rows: dict[str, tuple[str, str, str, str]] = {}
    groups: dict[str, str] = {}
    shown: dict[str, str] = {}
    for number, (path, source, split, group, semantic) in enumerate(table.itertuples(index=False, name=None), start=1):
        wrong = _row_problem(path, source, split, with_split)
        manifold = split == "manifold" or source.startswith("manifold-")
        row = (path, source, "manifold" if manifold else "source", split)
        if not wrong and path in rows:
            wrong = f"{path} is already listed, as {rows[path][1]} {rows[path][3]}".rstrip()
        if wrong:
            problems.add(Kind.INDEX_ROW, f"row {number}: {wrong}")
        elif not (base / text_path(path)).is_file():
            problems.add(Kind.MISSING_PATH, f"row {number}: {path} (source {source})")
        else:
            rows[path], groups[path], shown[path] = row, group, semantic
    entries = entries_frame(list(rows.values()))
    entries = entries.assign(group=entries["path"].map(groups).astype("str"))
    return entries if column is None else entries.assign(semantic=entries["path"].map(shown).astype("str"))


def _row_problem(path: str, source: str, split: str, with_split: bool) -> str:
    if not path:
        return "path is empty"
    if not SOURCE_NAME.fullmatch(source):
        return f"source is {source!r} ({path})"
    if with_split and split not in GIVEN_SPLITS:
        return f"split is {split!r} ({path}), expected one of {', '.join(GIVEN_SPLITS)}"
    if split == "manifold" and not source.startswith(("real-", "manifold-")):
        return f"split is 'manifold' for the source {source} ({path}); only reals form the manifold"
    if with_split and source.startswith("manifold-") and split != "manifold":
        return f"split is {split!r} for {source} ({path}), which can only be 'manifold'"
    return ""
