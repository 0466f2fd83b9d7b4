"""Which images come from one photograph or prompt: from an index file, from file names; and whether they seem to."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from datamodules.images.image_io import ImageFileError, text_path
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import Kind, Problems, counted

STEM = "stem"
_EXPECTED = (
    f"{STEM}, for the file's name without its suffix; or a regular expression with one part in parentheses, which is "
    r"looked for in that name and whose part names the group, as '^(\d+)' for 0001_seed3.png; or null, for no groups"
)
_LEAST_SHARED = 8  # names in common that are no accident
_SHARE = 0.5  # of the smaller source
_HITS = 0.6  # of the names compared; another image of one class is the nearest for 0.2 to 0.4 of ten classes
_GAPS = 4  # a number in so many is running still
_COMPARED = 24  # names whose images are compared
_DECODED = 384  # files opened at most
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


def check_groups(groups: str | None) -> None:
    """Check the option `groups` before anything is read.

    Raises:
        ValueError: It is neither null nor ``stem`` nor a regular expression with one part in parentheses.
    """
    if groups is None or groups == STEM:
        return
    try:
        parts = re.compile(groups).groups
    except re.error as error:
        found = f"groups is {groups!r}, which is no regular expression ({error})"
        raise ValueError(f"{found}; expected {_EXPECTED}") from error
    if parts != 1:
        raise ValueError(f"groups is {groups!r}; expected {_EXPECTED}")


def stems_of(paths: pd.Series) -> pd.Series:
    """Names of files without folder and suffix, in Unicode's NFC."""
    return paths.map(lambda path: unicodedata.normalize("NFC", path.rsplit("/", 1)[-1].rsplit(".", 1)[0]))


def assign_groups(entries: pd.DataFrame, groups: str | None, problems: Problems, notes: list[str]) -> pd.DataFrame:
    """``entries`` with the ``group`` of each image, "" for one that is a group of its own.

    ``groups`` is the option, as `check_groups` takes it. ``problems`` takes groups given twice, and an expression that
    fits no name; ``notes`` the number of names that it does not fit.
    """
    given = entries["group"] if "group" in entries else pd.Series("", index=entries.index, dtype="str")
    if groups is None:
        return entries.assign(group=given)
    if (given != "").any():
        problems.add(Kind.GROUPS, f"the index file has a column group, and groups is {groups!r}")
        return entries.assign(group=given)
    stems = stems_of(entries["path"])
    if groups == STEM:
        return entries.assign(group=stems)
    found = stems.str.extract(f"(?:{groups})", expand=False).fillna("").astype("str")
    if (found == "").all():
        problems.add(Kind.GROUPS, f"groups is {groups!r}, and no name fits it; the first is {stems.iloc[0]!r}")
    elif alone := int((found == "").sum()):
        first = entries.loc[found == "", "path"].iloc[0]
        notes.append(f"groups: {counted(alone)} whose names do not fit {groups!r}, each by itself; first: {first}")
    return entries.assign(group=found)


def join_copies(rows: pd.DataFrame) -> pd.DataFrame:
    """Make one group, under the first of their names, of all groups that hold copies of one picture.

    ``rows`` has ``group`` and ``final``, before copies are left out.
    """
    leads: dict[str, str] = {}

    def lead(name: str) -> str:
        while (up := leads.get(name, name)) != name:
            leads[name] = leads.get(up, up)  # halves the way for the next
            name = up
        return name

    copies = rows[rows.duplicated("final", keep=False)]
    joined: dict[str, str] = {}  # a group of each picture that has copies
    for final, names in copies.groupby("final")["group"]:
        known = sorted({lead(name) for name in names if name})
        for name in known:
            leads[name] = known[0]
            joined[str(final)] = known[0]
    if not joined:
        return rows
    group = rows["group"].where(rows["group"] != "", rows["final"].map(joined).fillna(""))
    return rows.assign(group=group.map(lead).astype("str"))


def describe_groups(rows: pd.DataFrame, groups: str | None) -> str:
    """What a report says of the groups of the images used: where they come from, how many there are, how large."""
    named = rows["group"][rows["group"] != ""]
    if named.empty:
        return "none: images are split one by one"
    sizes = named.value_counts()
    sizes = sizes[sizes > 1]
    where = "column group of the index file" if groups is None else f"by {groups}"
    if sizes.empty:
        return f"{where}: no two images share one"
    return (
        f"{where}: {len(sizes):,} groups of several images, {int(sizes.sum()):,} images together, at most "
        f"{int(sizes.max()):,} in one; {len(rows) - int(sizes.sum()):,} images alone; none in two splits"
    )


def looks_grouped(rows: pd.DataFrame, base: Path, pixel_path: PixelPath) -> str | None:
    """A sentence where images of several sources seem to come from the same photographs or prompts, else None.

    Sources have at least half of their file names in common. Names that are no running numbers (words, hashes,
    ``000000581929`` of COCO) are enough evidence. Running numbers say nothing, since every source begins at 0:
    then up to 24 images of the names in common are compared as 8 by 8 grey pixels, and most must resemble the image of
    their name in the other source more than any other image there. Images that only have a prompt in common may not do
    so, and are found by their names alone.
    """
    stems = stems_of(rows["path"])
    paths = {
        str(source): dict(zip(stems[part.index], part["path"], strict=True)) for source, part in rows.groupby("source")
    }
    small: dict[str, NDArray[np.float64] | None] = {}
    found = []
    for one, other in combinations(sorted(paths), 2):
        common = paths[one].keys() & paths[other].keys()
        least = min(len(paths[one]), len(paths[other]))
        if len(common) < max(_LEAST_SHARED, _SHARE * least):
            continue
        shared = f"{one} and {other} have {len(common)} of {least} file names in common"
        if not _running_numbers(common):
            found.append(f"{shared} ({min(common)!r}, ...)")
        elif _resemble(paths[one], paths[other], common, base, pixel_path, small):
            found.append(f"{shared}, and images of one name resemble each other")
    if not found:
        return None
    more = f"; and so {len(found) - 1} more pairs" if len(found) > 1 else ""
    return (
        f"the images look grouped: {found[0]}{more}. Where images come from one photograph or prompt, a split by image "
        f"leaks and the accuracy is too high; `groups: {STEM}` keeps those of one name in one split"
    )


def _running_numbers(names: set[str]) -> bool:
    """Whether names are numbers without large gaps, after few texts (``cat_0001``, ``dog_0001``)."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        part = _NUMBERED.fullmatch(name)
        if part is None:
            return False
        numbers.setdefault((part[1], part[3]), []).append(int(part[2]))
    span = sum(max(some) - min(some) + 1 for some in numbers.values())
    return span <= _GAPS * len(names) and len(numbers) * _LEAST_SHARED <= len(names)


def _resemble(
    one: dict[str, str],
    other: dict[str, str],
    common: set[str],
    base: Path,
    pixel_path: PixelPath,
    small: dict[str, NDArray[np.float64] | None],
) -> bool:
    """Whether the image of the same name is the nearest in the other source, for most of the names compared."""
    by_hash = sorted(common, key=lambda name: hashlib.blake2b(name.encode("utf-8", "surrogatepass")).digest())
    pairs = []
    for name in by_hash[:_COMPARED]:
        for path in (one[name], other[name]):
            if path not in small and len(small) < _DECODED:
                small[path] = _small(base / text_path(path), pixel_path)
        first, second = small.get(one[name]), small.get(other[name])
        if first is not None and second is not None:
            pairs.append((first, second))
    if len(pairs) < _LEAST_SHARED:
        return False
    both = np.array(pairs)  # (n, 2, 64)
    both -= both.mean(axis=0)
    length = np.linalg.norm(both, axis=2, keepdims=True)
    first, second = np.moveaxis(np.divide(both, length, out=np.zeros_like(both), where=length > 0), 1, 0)
    alike = first @ second.T
    own = np.arange(len(pairs))
    hits = (alike.argmax(axis=1) == own) & (alike.max(axis=1) > 0)
    return bool(hits.mean() >= _HITS)


def _small(path: Path, pixel_path: PixelPath) -> NDArray[np.float64] | None:
    """An image as 8 by 8 grey pixels, (64,); None where it cannot be read."""
    try:
        pixels = pixel_path.read(path)
    except ImageFileError:
        return None
    grey = Image.fromarray(pixels).convert("L").resize((8, 8), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float64).ravel()
