"""Look at every file once: parallel decoding, remembered by path, size and time, and failing that by content."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.images.file_scan import FileFacts, scan_files
from datamodules.images.image_io import path_text, text_path
from datamodules.images.pixel_path import PixelPath
from lightning_modules.common.files import atomic_file, remove_partials
from lightning_modules.common.locks import one_at_a_time


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
_SECONDS = 3.0  # between two savings: what is lost with a process that is killed


def _read_facts(file: Path) -> pd.DataFrame | None:
    """Facts of files, None where they are absent, of another version or damaged."""
    try:
        table = read_parquet(file)
        if (table.schema.metadata or {}).get(b"index_version") == str(INDEX_VERSION).encode():
            known: pd.DataFrame = table.select([*_KEY, *FACT_COLUMNS]).to_pandas()
            return known
    except (OSError, KeyError, pa.ArrowException):
        pass
    return None


class _Cache:
    """The facts that are known: a file for each pixel path, and what was found since, one more every few seconds.

    Attributes:
        facts: all that is known, as it lies on the disk.
        scattered: whether it lies in more than one file.
    """

    def __init__(self, folder: Path, pixel_path: PixelPath) -> None:
        self._file = folder / f"files-{pixel_path.key}.parquet"
        self._found = sorted(folder.glob(f"files-{pixel_path.key}.found-*.parquet"))
        parts = [facts for file in (self._file, *self._found) if (facts := _read_facts(file)) is not None]
        columns = {name: pd.Series(dtype="str") for name in (*_KEY, *FACT_COLUMNS)}
        whole = dict.fromkeys(("bytes", "mtime_ns", "height", "width"), "int64")
        empty = pd.DataFrame(columns).astype(whole)
        self.facts = pd.concat(parts, ignore_index=True).drop_duplicates("path", keep="last") if parts else empty

    @property
    def scattered(self) -> bool:
        return bool(self._found)

    def add(self, facts: pd.DataFrame) -> None:
        """Keep what has been found since the last call."""
        name = f"{self._file.stem}.found-{time.time_ns():020d}-{os.getpid()}.parquet"
        self._write(self._file.with_name(name), facts)
        self._found.append(self._file.with_name(name))

    def replace(self, facts: pd.DataFrame) -> None:
        """Keep these facts in one file."""
        self._write(self._file, facts)
        for file in self._found:
            file.unlink(missing_ok=True)

    @staticmethod
    def _write(file: Path, facts: pd.DataFrame) -> None:
        write_parquet(file, facts[[*_KEY, *FACT_COLUMNS]], {"index_version": str(INDEX_VERSION)})


def _stat(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path for each of a million files costs more than the call)
    except OSError:
        return -1, -1  # read_facts says why
    return status.st_size, status.st_mtime_ns


def _beyond(sizes: pd.Series, max_pixels: int) -> pd.Series:
    """Which of the sizes ``<width>x<height>`` have more pixels."""
    large = [size for size in sizes.unique() if size and math.prod(map(int, size.split("x"))) > max_pixels]
    return sizes.isin(large)


def build_index(
    entries: pd.DataFrame, base: Path, folder: Path, pixel_path: PixelPath, workers: int | None = None
) -> pd.DataFrame:
    """``entries`` with the columns of ``FileFacts``, looking only at files that are new or changed.

    A file is taken as unchanged while its path, size in bytes and modification time are; a file moved, copied or
    touched is read but not decoded again (its bytes' hash is known). The cache lies in ``folder``, one file for each
    pixel path, and is saved every few seconds: an indexing that was killed goes on where it was. Processes that index
    into one folder take turns. ``entries`` has unique paths as ``path_text`` writes them, relative ones from ``base``;
    ``workers`` processes decode, None for one per core.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder / ".indexing.lock", f"indexing into {path_text(folder)}") as alone:
        if alone:
            remove_partials(folder, f"files-{pixel_path.key}")  # left by a process that was killed
        return _build_index(entries, base, _Cache(folder, pixel_path), pixel_path, workers)


def _build_index(
    entries: pd.DataFrame, base: Path, cache: _Cache, pixel_path: PixelPath, workers: int | None
) -> pd.DataFrame:
    facts = cache.facts[~_beyond(cache.facts["size"], pixel_path.max_pixels)]  # found under a higher limit
    present = entries[["path"]].copy()
    stats = [_stat(os.path.join(base, text_path(path))) for path in present["path"].tolist()]  # noqa: PTH118 (as in _stat)
    present["bytes"], present["mtime_ns"] = np.array(stats, dtype=np.int64).reshape(-1, 2).T
    merged = present.merge(facts, on=_KEY, how="left", indicator=True)
    todo = merged.index[merged.pop("_merge") == "left_only"]
    by_hash = facts.drop_duplicates("file_hash").set_index("file_hash", drop=False)
    known = set(by_hash.index)
    found: list[dict[str, Any]] = []
    saved, last = 0, time.monotonic()

    def table(start: int) -> pd.DataFrame:
        index = todo[start : len(found)]
        return pd.concat([present.loc[index], pd.DataFrame(found[start:], index=index, columns=FACT_COLUMNS)], axis=1)

    for some in scan_files(base, present.loc[todo, "path"].tolist(), pixel_path, known, workers):
        for fact in some:
            if fact.file_hash in known:
                row = {name: by_hash.at[fact.file_hash, name] for name in FACT_COLUMNS}
                found.append({**row, "extension": fact.extension})
            else:
                found.append(asdict(fact))
        if time.monotonic() - last >= _SECONDS:
            cache.add(_good(table(saved)))
            saved, last = len(found), time.monotonic()
    if len(todo):
        merged.loc[todo, FACT_COLUMNS] = table(0)[FACT_COLUMNS]
    if len(todo) or cache.scattered:
        done = _good(merged)
        absent = cache.facts[~cache.facts["path"].isin(done["path"])]  # of other listings, or removed: their content
        cache.replace(pd.concat([done, absent], ignore_index=True))
    merged = merged.astype({"height": "int64", "width": "int64"})
    return pd.concat([entries, merged[FACT_COLUMNS]], axis=1)


def _good(facts: pd.DataFrame) -> pd.DataFrame:
    """Facts of files that can be used: the others are looked at again each time."""
    return facts[facts["problem"] == ""]
