"""Tables of a data set on disk, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

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
