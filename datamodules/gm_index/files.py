"""Files written beside their place and renamed, so that a half-written one is never read as a whole one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it.

    Raises:
        OSError: The folder cannot be written to; the message names it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OSError(
            f"{path.parent} cannot be written to ({error.strerror}); name a writable folder as cache_dir"
        ) from error
    os.close(descriptor)
    partial = Path(name)
    try:
        write(partial)
        partial.chmod(0o644)  # mkstemp gives 0600, but a data set's index is for everyone who reads the data set
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_parquet(path: Path, frame: pd.DataFrame, metadata: Mapping[str, str]) -> None:
    """Write a table with string metadata in its schema, atomically."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(dict(metadata))

    def write(partial: Path) -> None:
        with partial.open("wb") as file:  # Arrow itself opens no path that is not UTF-8
            pq.write_table(table, file)

    write_atomically(path, write)


def read_parquet(path: Path) -> pa.Table:
    """Read a table with its metadata.

    Raises:
        OSError: It is not there.
        pyarrow.ArrowException: It is no Parquet file.
    """
    with path.open("rb") as file:
        return pq.read_table(file)
