"""Files of a run folder, each written beside its place and renamed: no half-written file is ever read as a whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_modules.common.files import atomic_file, write_text
from lightning_modules.metrics.intervals import Estimate

METRICS_FILE = "metrics.json"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically.

    Numbers keep full precision (they read back bit for bit), keys their order, NaN and infinity become null (JSON has
    neither). Whatever has a `to_json` method is written as that gives.

    Raises:
        TypeError: something in `value` has no JSON form; nothing is written.
    """
    write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, atomically; values as in `write_json`."""
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            file.write(json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of `write_jsonl`."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows with the same columns as Parquet, atomically.

    Raises:
        ValueError: the rows differ in their columns, or there are none.
    """
    import pyarrow
    import pyarrow.parquet

    rows = list(rows)
    if not rows:
        raise ValueError(f"found no rows to write to {path}; a table without rows has no columns")
    columns = list(rows[0])
    for number, row in enumerate(rows):
        if set(row) != set(columns):
            raise ValueError(
                f"row {number} has columns {sorted(row)}, the first row {sorted(columns)}; expected the same"
            )
    table = pyarrow.table({column: [row[column] for row in rows] for column in columns})
    with atomic_file(path) as partial:
        pyarrow.parquet.write_table(table, partial)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write per-image rows in the format that the suffix of `path` names: `.jsonl` or `.parquet`.

    Raises:
        ValueError: another suffix.
    """
    writers: dict[str, Callable[[Path, Iterable[Mapping[str, Any]]], None]] = {
        ".jsonl": write_jsonl,
        ".parquet": write_parquet,
    }
    if Path(path).suffix not in writers:
        raise ValueError(
            f"{path}: per-image rows are written as .jsonl or .parquet, not {Path(path).suffix or 'neither'}"
        )
    writers[Path(path).suffix](path, rows)


def write_metrics(path: Path, metrics: Mapping[str, Estimate]) -> None:
    """Write `metrics.json`: `{"test/accuracy": {"value": ..., "low": ..., "high": ..., "n": ..., "interval": ...}}`.

    Metrics are sorted by name, so that two runs' files compare line by line.

    Args:
        path: where to; `metrics.json` of a run folder.
        metrics: estimates by `stage/metric`.
    """
    write_json(path, {name: metrics[name].to_json() for name in sorted(metrics)})


def read_metrics(path: Path) -> dict[str, Estimate]:
    """The metrics of a `metrics.json`, or of the run folder that holds one.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a file of metrics; the message says what is wrong with it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / METRICS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; an evaluation writes it at its end (evaluate.py test)")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ValueError(f"found a {type(entries).__name__}, expected an object of metrics by name")
        metrics = {}
        for name, entry in entries.items():
            if not isinstance(entry, dict):
                raise ValueError(f"{name} is {entry!r}, expected an object with value, low, high, n and interval")
            metrics[name] = Estimate.from_json(entry)
    except ValueError as error:  # JSON errors are among them
        raise ValueError(f"{path}: {error}") from error
    return metrics


def _plain(value: Any) -> Any:
    """`value` in JSON types: estimates, paths, NumPy and tensor scalars and arrays unpacked, non-finite floats None."""
    if hasattr(value, "to_json"):
        value = value.to_json()
    elif isinstance(value, Path):
        return str(value)
    elif hasattr(value, "tolist"):  # NumPy and torch
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
