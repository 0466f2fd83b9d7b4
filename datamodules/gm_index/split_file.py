"""A split on disk: content id -> split, with the rule that drew it.

JSON, or Parquet for large data sets, by the file's suffix.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from datamodules.gm_index.files import read_parquet, write_parquet
from datamodules.gm_index.problems import Kind, Problems, counted
from datamodules.gm_index.splits import SPLITS, SplitRule
from lightning_modules.common.files import write_text

SPLIT_FORMAT = 1
SUFFIXES = (".json", ".parquet")


def write_split_file(path: Path, rows: pd.DataFrame, rule: SplitRule) -> None:
    """Write the split of every row that has one, ordered by content id, atomically.

    Args:
        path: ``.json`` or ``.parquet``.
        rows: Table with ``content`` and ``split``.
        rule: How it was drawn.
    """
    drawn = rows.loc[rows["split"] != "", ["content", "split"]].sort_values("content")
    head = {"format": SPLIT_FORMAT, "rule": rule.as_dict()}
    if path.suffix.lower() == ".parquet":
        write_parquet(path, drawn, {"split": json.dumps(head)})
    else:
        text = json.dumps({**head, "splits": dict(zip(drawn["content"], drawn["split"], strict=True))}, indent=1)
        write_text(path, text + "\n")


def _read(path: Path) -> tuple[dict[str, object], dict[str, str]]:
    if path.suffix.lower() == ".parquet":
        table = read_parquet(path)
        head = json.loads((table.schema.metadata or {})[b"split"])
        pairs = zip(table["content"].to_pylist(), table["split"].to_pylist(), strict=True)
        return head, _each_once(list(pairs))
    content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
    return content, content["splits"]


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Pairs as a dict; where files were put together by hand, the last of two equal names would win without a word."""
    once = dict(pairs)
    if len(once) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice} stands there {sum(name == twice for name, _ in pairs)} times, expected once")
    return once


def read_split_file(path: Path, rows: pd.DataFrame, rule: SplitRule, problems: Problems, notes: list[str]) -> pd.Series:
    """Give each row the split that the file names; the file decides alone.

    Args:
        path: A file of ``write_split_file``.
        rows: Table with ``path`` and ``content``; each picture once.
        rule: The rule of this run, which must be the file's.
        problems: Takes an unreadable file, another rule, and pictures of the file that are not there.
        notes: Takes the number of images that the file does not know and that are therefore left out.

    Returns:
        Split of each row, "" where the file does not know the picture.
    """
    nothing = pd.Series("", index=rows.index, dtype="str")
    try:
        head, splits = _read(path)
        rule_there, version = head["rule"], head["format"]
        unknown = set(splits.values()) - set(SPLITS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        problems.add(Kind.SPLIT_FILE, f"{path} cannot be read as a split file ({type(error).__name__}: {error})")
        return nothing
    if version != SPLIT_FORMAT or unknown or not isinstance(rule_there, dict):
        problems.add(
            Kind.SPLIT_FILE, f"{path}: format {version!r} with splits {sorted(set(map(str, splits.values())))}"
        )
        return nothing
    for name, value in rule.as_dict().items():
        if rule_there.get(name) != value:
            problems.add(
                Kind.SPLIT_FILE, f"{path} was written with {name} {rule_there.get(name)}, this run has {name} {value}"
            )
    present = set(rows["content"])
    for content in (content for content in splits if content not in present):
        problems.add(
            Kind.SPLIT_FILE, f"{path} names the picture {content} ({splits[content]}), which is not in the data set"
        )
    found = rows["content"].map(splits).fillna("").astype("str")
    if new := int((found == "").sum()):
        notes.append(f"left out, not in {path}: {counted(new)}")
    return found
