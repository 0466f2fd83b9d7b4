"""Look at every file once: parallel decoding, remembered by path, size and time, and failing that by content."""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.gm_index.file_facts import FileFacts, read_facts
from datamodules.gm_index.files import read_parquet, write_parquet
from datamodules.gm_index.pixel_path import PixelPath
from datamodules.image_io import text_path

INDEX_VERSION = 3  # raise when FileFacts or the meaning of a column changes
FACT_COLUMNS = [field.name for field in fields(FileFacts)]
_KEY = ["path", "bytes", "mtime_ns"]
_BLOCK = 50_000  # files between two savings: an interrupted first indexing resumes from the last one
_PARALLEL_FROM = 1_000  # below, starting workers costs more than it saves


class _Looker(Dataset[tuple[int, FileFacts]]):
    def __init__(self, base: Path, paths: list[str], pixel_path: PixelPath, known: set[str]) -> None:
        self.base, self.paths, self.pixel_path, self.known = base, paths, pixel_path, known

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, FileFacts]:
        return index, read_facts(self.base / text_path(self.paths[index]), self.pixel_path, self.known)


def _unchanged(batch: list[tuple[int, FileFacts]]) -> list[tuple[int, FileFacts]]:
    return batch


def look_at(
    base: Path, paths: list[str], pixel_path: PixelPath, known: set[str], workers: int | None
) -> list[FileFacts]:
    """Facts of each file, in order.

    Args:
        base: Folder that relative paths start from.
        paths: The files, as ``path_text`` writes them.
        pixel_path: What happens to the pixels before they are scored.
        known: File hashes whose facts need no decoding.
        workers: Processes; None for one per core where there is enough to do.
    """
    if workers is None:
        workers = min(16, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    workers = workers if len(paths) >= _PARALLEL_FROM and workers > 1 else 0
    loader = DataLoader(
        _Looker(base, paths, pixel_path, known), batch_size=128, num_workers=workers, collate_fn=_unchanged
    )
    facts: list[FileFacts] = [FileFacts()] * len(paths)
    with tqdm(total=len(paths), desc="indexing images", unit="img", disable=len(paths) < _PARALLEL_FROM) as bar:
        for batch in loader:
            for index, fact in batch:
                facts[index] = fact
            bar.update(len(batch))
    return facts


def _read_cache(cache_file: Path) -> pd.DataFrame:
    columns = [*_KEY, *FACT_COLUMNS]
    try:
        table = read_parquet(cache_file)
        if (table.schema.metadata or {}).get(b"index_version") == str(INDEX_VERSION).encode():
            return table.select(columns).to_pandas()
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
    """Facts of every listed file, looking only at files that are new or changed.

    A file is taken as unchanged while its path, size in bytes and modification time are; a file moved, copied or
    touched is read but not decoded again (its bytes' hash is known).

    Args:
        entries: Table with a column ``path``, unique, as ``path_text`` writes it.
        base: Folder that relative paths start from.
        folder: Where the cache lies; one file for each pixel path.
        pixel_path: What happens to the pixels before they are scored.
        workers: Processes that decode; None for one per core.

    Returns:
        ``entries`` with the columns of ``FileFacts``, in the same order.
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
        facts = look_at(base, present.loc[block, "path"].tolist(), pixel_path, known, workers)
        rows = [
            {**by_hash.loc[fact.file_hash, FACT_COLUMNS].to_dict(), "extension": fact.extension}
            if fact.file_hash in known
            else asdict(fact)
            for fact in facts
        ]
        merged.loc[block, FACT_COLUMNS] = pd.DataFrame(rows, index=block)[FACT_COLUMNS]
        done = merged.loc[
            merged["file_hash"].notna() & (merged["problem"] == "")
        ]  # bad files are looked at again each time
        absent = cache[~cache["path"].isin(done["path"])]  # of other listings, or removed: kept for their content
        write_parquet(cache_file, pd.concat([done, absent], ignore_index=True), {"index_version": str(INDEX_VERSION)})
    merged = merged.astype({"height": "int64", "width": "int64"})
    return pd.concat([entries, merged[FACT_COLUMNS]], axis=1)
