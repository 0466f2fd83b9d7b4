"""The other way in: a CSV or Parquet table of paths and sources."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa

from datamodules.gm_index.discover import SOURCE_NAME, entries_frame
from datamodules.gm_index.files import read_parquet
from datamodules.gm_index.problems import Kind, Problems
from datamodules.image_io import text_path

GIVEN_SPLITS = ("train", "val", "test", "manifold")


def _read_table(index_file: Path, problems: Problems) -> pd.DataFrame | None:
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
    missing = [name for name in ("path", "source") if name not in table.columns]
    if missing:
        found = ", ".join(map(str, table.columns)) or "none"
        problems.add(
            Kind.INDEX_FILE, f"{index_file} lacks the column {' and '.join(missing)}; its columns are: {found}"
        )
        return None
    if table.empty:
        problems.add(Kind.INDEX_FILE, f"{index_file} has no rows")
        return None
    for name in ("split", "group"):
        if name not in table.columns:
            table[name] = ""
    return table[["path", "source", "split", "group"]].fillna("").astype(str).map(str.strip)


def read_index_file(index_file: Path, base: Path, problems: Problems) -> pd.DataFrame:
    """Read and check a table with the columns ``path``, ``source`` and optionally ``split`` and ``group``.

    Args:
        index_file: CSV or Parquet file; other columns are left alone.
        base: Folder that relative paths start from.
        problems: Takes bad columns, bad rows and paths that do not exist.

    Returns:
        Table with the columns of ``discover.entries_frame`` and ``group`` ("" for an image that is in no group), of the
        rows without a problem.
    """
    table = _read_table(index_file, problems)
    if table is None:
        return entries_frame([])
    with_split = bool((table["split"] != "").any())
    rows: dict[str, tuple[str, str, str, str]] = {}
    groups: dict[str, str] = {}
    for number, (path, source, split, group) in enumerate(table.itertuples(index=False, name=None), start=1):
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
            rows[path], groups[path] = row, group
    entries = entries_frame(list(rows.values()))
    return entries.assign(group=entries["path"].map(groups).astype("str"))


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
