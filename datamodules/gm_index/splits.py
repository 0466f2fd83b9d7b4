"""Which image is for training, validation, test or the manifold: drawn by content, stratified by source."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from datamodules.gm_index.file_index import read_parquet, write_parquet
from datamodules.images.problems import Kind, Problems, counted
from lightning_modules.common.files import write_text

DIVIDED = ("train", "val", "test")
SPLITS = ("manifold", *DIVIDED)
_TOO_MANY_TO_TRY = 100_000


@dataclass(frozen=True)
class SplitRule:
    """How the images of each source are divided; ``train``, ``val`` and ``test`` are fractions that sum to 1.

    Attributes:
        manifold: Fraction of the reals that forms the manifold before the rest is divided, where there is no folder
            ``manifold-<name>``.
        images_per_source: Most images of one source in train, val and test together; None for all.
        manifold_size: Most reals in the manifold; None for all.
    """

    seed: int = 0
    train: float = 0.7
    val: float = 0.1
    test: float = 0.2
    manifold: float = 0.5
    images_per_source: int | None = None
    manifold_size: int | None = None

    def __post_init__(self) -> None:
        fractions = {"train_fraction": self.train, "val_fraction": self.val, "test_fraction": self.test}
        shown = ", ".join(f"{name} {value}" for name, value in fractions.items())
        if min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
            total = sum(fractions.values())
            raise ValueError(f"{shown}: they sum to {total:g}; expected numbers of at least 0 that sum to 1")
        if not 0 <= self.manifold <= 1:
            raise ValueError(f"manifold_fraction is {self.manifold}; expected a number between 0 and 1")
        for name in ("images_per_source", "manifold_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1, or null for no limit")

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Of train, val and test."""
        return self.train, self.val, self.test

    def as_dict(self) -> dict[str, int | float | None]:
        """The rule as plain values, for files."""
        return asdict(self)

    def sizes(self, count: int) -> tuple[int, int, int]:
        """Numbers of train, val and test images out of ``count``: cumulative fractions, rounded."""
        ends = [0, round(self.train * count), round((self.train + self.val) * count), count]
        return ends[1] - ends[0], ends[2] - ends[1], ends[3] - ends[2]

    def missing(self, count: int) -> list[str]:
        """Splits that would be empty although their fraction is not 0."""
        sizes = zip(DIVIDED, self.sizes(count), self.fractions, strict=True)
        return [name for name, size, fraction in sizes if fraction > 0 and size < 1]

    def least(self) -> int:
        """Fewest images with which no split of a source is empty."""
        return next((count for count in range(1, _TOO_MANY_TO_TRY) if not self.missing(count)), _TOO_MANY_TO_TRY)


def draw_order(contents: pd.Series, seed: int) -> pd.Series:
    """Sort key of each image: a hash of (seed, content id), so that no image's place depends on what else is there."""
    prefix = f"{seed}:"

    def key(content: str) -> str:
        return hashlib.blake2b((prefix + content).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    return contents.map(key)


def draw_splits(rows: pd.DataFrame, rule: SplitRule, problems: Problems) -> pd.Series:
    """Divide each source's images: sorted by ``draw_order``, cut at the fractions.

    Adding, removing or reordering files of one source changes nothing for the others; renaming files changes nothing
    at all. ``rows`` has ``source``, ``role``, ``content``, each picture once; ``problems`` takes sources that are too
    small.

    Returns:
        ``manifold``, ``train``, ``val``, ``test`` or "" (left out by a cap) for each row.
    """
    split = pd.Series("", index=rows.index, dtype="str")
    order = draw_order(rows["content"], rule.seed)
    ranked = {str(source): order[group].sort_values().index for source, group in rows.groupby("source").groups.items()}
    own = rows.loc[rows["role"] == "manifold", "source"].unique()
    if len(own):
        pool = order[rows["role"] == "manifold"].sort_values().index
        split[pool[: rule.manifold_size]] = "manifold"
        share: dict[str, int] = {}
    else:
        reals = {source: len(index) for source, index in ranked.items() if source.startswith("real-")}
        share = manifold_shares(reals, rule)
    for source, index in ranked.items():
        if source in own:
            continue
        taken = share.get(source, 0)
        split[index[:taken]] = "manifold"
        rest = index[taken:][: rule.images_per_source]
        if missing := rule.missing(len(rest)):
            ask = f"{source}: {counted(len(index))}"
            ask += f", {taken} of them for the manifold" if source in share else ""
            ask += f", {len(rest)} to divide" if len(rest) != len(index) else ""
            ask += f": none left for {', '.join(missing)}; at least {rule.least()} to divide are needed"
            problems.add(Kind.TOO_FEW, ask)
        split[rest] = np.repeat(DIVIDED, rule.sizes(len(rest)))
    if share and not any(share.values()):
        told = ", ".join(f"{source} ({counted(len(ranked[source]))})" for source in share)
        problems.add(Kind.TOO_FEW, f"{told}: none for the manifold with manifold_fraction {rule.manifold:g}")
    return split


def manifold_shares(reals: dict[str, int], rule: SplitRule) -> dict[str, int]:
    """Reals of each source that go to the manifold: its fraction, scaled down to the cap by largest remainders."""
    wanted = {source: round(count * rule.manifold) for source, count in reals.items()}
    total = sum(wanted.values())
    if rule.manifold_size is None or total <= rule.manifold_size:
        return wanted
    exact = {source: count * rule.manifold_size / total for source, count in wanted.items()}
    shares = {source: int(np.floor(value)) for source, value in exact.items()}
    by_remainder = sorted(exact, key=lambda source: (shares[source] - exact[source], source))
    for source in by_remainder[: rule.manifold_size - sum(shares.values())]:
        shares[source] += 1
    return shares


def check_given(rows: pd.DataFrame, rule: SplitRule, problems: Problems) -> None:
    """Check splits read from an index file or a split file: every source in every split with a fraction above 0."""
    wanted = {name for name, fraction in zip(DIVIDED, rule.fractions, strict=True) if fraction > 0}
    for source, group in rows[rows["role"] == "source"].groupby("source"):
        divided = group["split"][group["split"].isin(wanted)].value_counts()
        if missing := sorted(wanted - set(divided.index)):
            counts = ", ".join(f"{name} {count}" for name, count in group["split"].value_counts().items() if name)
            found = f"(found: {counts or 'none'})"
            problems.add(Kind.TOO_FEW, f"{source}: no image with the split {', '.join(missing)} {found}")
    if not (rows["split"] == "manifold").any():
        problems.add(Kind.NO_REAL, "no image has the split 'manifold'")


SPLIT_FORMAT = 1
SUFFIXES = (".json", ".parquet")


def write_split_file(path: Path, rows: pd.DataFrame, rule: SplitRule) -> None:
    """Write the ``.json`` or ``.parquet`` of every row's ``split`` and how it was drawn, by content id, atomically."""
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
    """Give each row the split that a file of ``write_split_file`` names, "" where it does not know the picture.

    The file decides alone, and its rule must be this run's. ``rows`` has ``path`` and ``content``, each picture once.
    ``problems`` takes an unreadable file, another rule, and pictures of the file that are not there, ``notes`` the
    number of images that the file does not know and that are therefore left out.
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
        named = sorted(set(map(str, splits.values())))
        problems.add(Kind.SPLIT_FILE, f"{path}: format {version!r} with splits {named}")
        return nothing
    wrong = [
        f"was written with {name} {rule_there.get(name)}, this run has {name} {value}"
        for name, value in rule.as_dict().items()
        if rule_there.get(name) != value
    ]
    present = set(rows["content"])
    for content in (content for content in splits if content not in present):
        wrong.append(f"names the picture {content} ({splits[content]}), which is not in the data set")
    for difference in wrong:
        problems.add(Kind.SPLIT_FILE, f"{path} {difference}")
    found = rows["content"].map(splits).fillna("").astype("str")
    if new := int((found == "").sum()):
        notes.append(f"left out, not in {path}: {counted(new)}")
    return found
