"""A CSV of paths that somebody wrote, checked line by line before an index file is made of it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from datamodules.gm_index.sources import GIVEN_SPLITS, SOURCE_NAME
from datamodules.images.image_io import is_image_file, text_path
from datamodules.images.problems import SHOWN_PER_KIND, counted
from lightning_modules.common.tables import did_you_mean

NEEDED, OPTIONAL = ("path", "source"), ("split", "group")
_DELIMITERS = ",;\t"


def read_path_table(file: Path, root: Path) -> pd.DataFrame:
    """Read ``path``, ``source``, if wanted ``split`` and ``group``, and whatever columns there are besides.

    Cells are separated by commas, semicolons or tabs; spaces around them do not count. Paths are relative to ``root``
    or absolute. Columns come in that order, rows as they are in the file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: What is wrong with it, by line (the header is line 1) and column.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is {'a folder' if file.exists() else 'not there'}; expected a CSV file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); save it as a CSV file in UTF-8") from error
    if not text.strip():
        raise ValueError(f"{file} is empty; expected the columns path and source")
    first = text.splitlines()[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    head = [name.strip() for name in next(reader)]
    _check_head(file, head)
    rows: list[tuple[int, list[str]]] = []
    wrong: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(head):
                wrong.append(f"line {reader.line_num}: found {counted(len(cells), 'cell')}, expected {len(head)}")
            else:
                rows.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}; correct it") from error
    table = pd.DataFrame([cells for _, cells in rows], columns=head, dtype="str")
    wrong += _wrong_cells(table, [line for line, _ in rows], root)
    if not wrong and table.empty:
        wrong.append("line 1: no line follows the header")
    if wrong:
        shown = "".join(f"\n  {each}" for each in wrong[:SHOWN_PER_KIND])
        more = f"\n  ... and {len(wrong) - SHOWN_PER_KIND} more" if len(wrong) > SHOWN_PER_KIND else ""
        raise ValueError(f"{file}: {counted(len(wrong), 'problem')}, no index was written:{shown}{more}")
    ordered = [name for name in (*NEEDED, *OPTIONAL) if name in head]
    return table[[*ordered, *(name for name in head if name not in ordered)]]


def _check_head(file: Path, head: Sequence[str]) -> None:
    shown = ", ".join(name or "''" for name in head)
    for place, name in enumerate(head, start=1):
        if not name or name in head[: place - 1]:
            what = "has no name" if not name else f"is a second {name}"
            raise ValueError(f"{file}, line 1: column {place} {what}; name each column once (found {shown})")
    others = [name for name in head if name not in (*NEEDED, *OPTIONAL)]
    for name in NEEDED:
        if name not in head:
            hint = did_you_mean(name, others, "add it")
            raise ValueError(f"{file}, line 1: found no column {name} among {shown}; {hint}")
    for name in others:  # a column of another name is the user's own, unless it was meant for ours
        near = did_you_mean(name.lower(), [each for each in OPTIONAL if each not in head])
        if near:
            raise ValueError(f"{file}, line 1: found the column {name}; {near} Otherwise give it another name")


def _wrong_cells(table: pd.DataFrame, lines: Sequence[int], root: Path) -> list[str]:
    """What is wrong, by line and column."""
    wrong: list[str] = []
    seen: dict[str, int] = {}
    splits = table["split"] if "split" in table else pd.Series("", index=table.index, dtype="str")
    with_split = bool((splits != "").any())
    for line, path, source, split in zip(lines, table["path"], table["source"], splits, strict=True):
        found = [("path", _path_problem(path, root, seen.get(path))), ("source", _source_problem(source))]
        if with_split:
            found.append(("split", _split_problem(split, source)))
        wrong += [f"line {line}, column {column}: {problem}" for column, problem in found if problem]
        seen.setdefault(path, line)
    return wrong


def _path_problem(path: str, root: Path, before: int | None) -> str:
    if not path:
        return "found nothing, expected the path of an image"
    if before is not None:
        return f"found {path}, which line {before} has; expected each image once"
    file = root / text_path(path)
    if not file.is_file():
        return f"found {path}, which is not a file; expected a path from {root}, or an absolute one"
    return "" if is_image_file(str(file)) else f"found {path}, which is no image"


def _source_problem(source: str) -> str:
    if SOURCE_NAME.fullmatch(source):
        return ""
    return f"found {source!r}, expected FAMILY-MODEL, such as gan-stylegan2, or for real images real-NAME"


def _split_problem(split: str, source: str) -> str:
    if split not in GIVEN_SPLITS:
        meant = [name for name in GIVEN_SPLITS if split.lower().startswith(name)]
        hint = f"did you mean {meant[0]}?" if meant else did_you_mean(split, GIVEN_SPLITS)
        hint = hint or f"expected one of {', '.join(GIVEN_SPLITS)}"
        return f"found {split!r}; {hint} (in all lines or in none)"
    if split == "manifold" and not source.startswith(("real-", "manifold-")):
        return f"found manifold for {source}; only real images form the manifold"
    if split != "manifold" and source.startswith("manifold-"):
        return f"found {split} for {source}, which can only be manifold"
    return ""
