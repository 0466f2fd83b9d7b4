"""Run folders of tests (`evaluated_runs`) that say more of themselves: settings, reports, results, rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.run_files import read_metrics, write_json, write_jsonl, write_metrics


def tell_settings(folder: Path, **settings: Any) -> Path:
    """Set settings of the config by dotted key, `_` for a dot where two stand: `data__root`."""
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for name, value in settings.items():
        section, _, key = name.partition("__")
        target = (
            config if not key else config[section]["init_args"] if section in ("model", "data") else config[section]
        )
        target[key or section] = value
    path.write_text(yaml.safe_dump(config))
    return folder


def tell_evaluation(folder: Path, settings: Mapping[str, Any] | None = None, **report: Any) -> Path:
    """Add to the settings and the report of `evaluation.json`."""
    path = folder / "evaluation.json"
    found = json.loads(path.read_text())
    found["settings"] = {**found["settings"], **(settings or {})}
    found["report"] = {**found.get("report", {}), **report}
    write_json(path, found)
    return folder


def tell_provenance(folder: Path, **facts: Any) -> Path:
    """Add to `provenance.json`."""
    path = folder / "provenance.json"
    write_json(path, {**json.loads(path.read_text()), **facts})
    return folder


def tell_metrics(folder: Path, metrics: Mapping[str, Estimate]) -> Path:
    """Add to `metrics.json`."""
    write_metrics(folder / "metrics.json", {**read_metrics(folder), **metrics})
    return folder


def tell_rows(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Change every row of `rows.jsonl`."""
    path = folder / "rows.jsonl"
    write_jsonl(path, [change(json.loads(line)) for line in path.read_text().splitlines()])
    return folder
