"""Files of a run folder, each written beside its place and renamed: no half-written file is ever read as a whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
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


def write_metrics(path: Path, metrics: Mapping[str, Estimate]) -> None:
    """Write `metrics.json`: `{"test/accuracy": {"value": ..., "low": ..., "high": ..., "n": ..., "interval": ...}}`.

    Metrics are sorted by name, so that two runs' files compare line by line.
    """
    write_json(path, {name: metrics[name].to_json() for name in sorted(metrics)})


def read_metrics(path: Path) -> dict[str, Estimate]:
    """The metrics of a `metrics.json`, or of the run folder that holds one.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a file of metrics; the message says what is wrong with it.
    """
    path = path / METRICS_FILE if path.is_dir() else path
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
