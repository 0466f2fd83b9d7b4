"""Look at every file once: parallel decoding, remembered by path, size and time, and failing that by content."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.images.file_scan import FileFacts, scan_files
from datamodules.images.image_io import text_path
from datamodules.images.pixel_path import PixelPath
from lightning_modules.common.files import atomic_file


def write_parquet(path: Path, frame: pd.DataFrame, metadata: Mapping[str, str]) -> None:
    """Write a table with string metadata in its schema, atomically."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(dict(metadata))
    with atomic_file(path) as partial, partial.open("wb") as file:  # Arrow itself opens no path that is not UTF-8
        pq.write_table(table, file)


def read_parquet(path: Path) -> pa.Table:
    """Read a table with its metadata.

    Raises:
        OSError: It is not there.
        pyarrow.ArrowException: It is no Parquet file.
    """
    with path.open("rb") as file:
        return pq.read_table(file)


INDEX_VERSION = 3  # raise when FileFacts or the meaning of a column changes
FACT_COLUMNS = [field.name for field in fields(FileFacts)]
_KEY = ["path", "bytes", "mtime_ns"]
_BLOCK = 50_000  # files between two savings: an interrupted first indexing resumes from the last one


def _read_cache(cache_file: Path) -> pd.DataFrame:
    columns = [*_KEY, *FACT_COLUMNS]
    try:
        table = read_parquet(cache_file)
        if (table.schema.metadata or {}).get(b"index_version") == str(INDEX_VERSION).encode():
            known: pd.DataFrame = table.select(columns).to_pandas()
            return known
    except (OSError, KeyError, pa.ArrowException):
        pass  # absent, of another version or damaged: everything is looked at again
    empty = pd.DataFrame({name: pd.Series(dtype="str") for name in columns})
    return empty.astype({"bytes": "int64", "mtime_ns": "int64", "height": "int64", "width": "int64"})


def _stat(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path for each of a million files costs more than the call)
    except OSError:
        return -1, -1  # read_facts says why
    return status.st_size, status.st_mtime_ns


def build_index(
    entries: pd.DataFrame, base: Path, folder: Path, pixel_path: PixelPath, workers: int | None = None
) -> pd.DataFrame:
    """``entries`` with the columns of ``FileFacts``, looking only at files that are new or changed.

    A file is taken as unchanged while its path, size in bytes and modification time are; a file moved, copied or
    touched is read but not decoded again (its bytes' hash is known). The cache lies in ``folder``, one file for each
    pixel path. ``entries`` has unique paths as ``path_text`` writes them, relative ones from ``base``; ``workers``
    processes decode, None for one per core.
    """
    cache_file = folder / f"files-{pixel_path.key}.parquet"
    cache = _read_cache(cache_file)
    present = entries[["path"]].copy()
    stats = [_stat(os.path.join(base, text_path(path))) for path in present["path"].tolist()]  # noqa: PTH118 (as in _stat)
    present["bytes"], present["mtime_ns"] = np.array(stats, dtype=np.int64).reshape(-1, 2).T
    merged = present.merge(cache, on=_KEY, how="left", indicator=True)
    todo = merged.index[merged.pop("_merge") == "left_only"]
    by_hash = cache.drop_duplicates("file_hash").set_index("file_hash", drop=False)
    known = set(by_hash.index)
    for start in range(0, len(todo), _BLOCK):
        block = todo[start : start + _BLOCK]
        facts = scan_files(base, present.loc[block, "path"].tolist(), pixel_path, known, workers)
        rows = [
            {**by_hash.loc[fact.file_hash, FACT_COLUMNS].to_dict(), "extension": fact.extension}
            if fact.file_hash in known
            else asdict(fact)
            for fact in facts
        ]
        merged.loc[block, FACT_COLUMNS] = pd.DataFrame(rows, index=block)[FACT_COLUMNS]
        good = merged["file_hash"].notna() & (merged["problem"] == "")  # bad files are looked at again each time
        done = merged.loc[good]
        absent = cache[~cache["path"].isin(done["path"])]  # of other listings, or removed: kept for their content
        write_parquet(cache_file, pd.concat([done, absent], ignore_index=True), {"index_version": str(INDEX_VERSION)})
    merged = merged.astype({"height": "int64", "width": "int64"})
    return pd.concat([entries, merged[FACT_COLUMNS]], axis=1)
