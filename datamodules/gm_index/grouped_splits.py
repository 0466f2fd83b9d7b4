"""Splits in which no group has images in two: whole groups are dealt out, then the images that stand alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.gm_index.splits import DIVIDED, SplitRule, draw_order, manifold_shares
from datamodules.images.problems import Kind, Problems, counted

_TOLD_FROM = 0.02  # share of a source by which a split may miss its size without a word


def draw_grouped_splits(rows: pd.DataFrame, rule: SplitRule, problems: Problems, notes: list[str]) -> pd.Series:
    """Divide each source's images so that no group stands in two of train, val, test and manifold.

    A classifier that has seen a photograph in training names its other versions more often than it names versions of an
    unseen one; so train, val and test are disjoint by group. So is the manifold: an image whose own photograph is the
    nearest real has a smaller artifact, of another kind, than any image has in use. In the test that is too good; in
    training alone it teaches what the test does not hold. Generated images of the manifold's groups are therefore left
    out, and of reals that can be chosen, those whose groups hold no generated image go to the manifold first.

    Groups are dealt out largest first, then by a hash of (seed, group): each to the split whose sizes, over all sources
    of the group, are the least filled. Images alone then fill each source up, by `draw_order`. With no group of several
    images this is `draw_splits`. The order and names of files do not matter; another image or group may move others.
    Arguments and result are those of `draw_splits`, with a column ``group`` ("" for an image alone); ``notes`` takes
    what was left out, and sizes that groups do not allow.
    """
    table = rows[["source", "role", "group"]].assign(by_content=draw_order(rows["content"], rule.seed))
    alone = table["group"] == ""
    table["group"] = table["group"].where(~alone, "content " + rows["content"]).where(alone, "group " + table["group"])
    table["order"] = _group_order(table, rule.seed)
    table["group"] = pd.factorize(table["group"])[0]  # numbers are faster, and their order means nothing from here on
    table = table.sort_values(["order", "by_content"], kind="stable")
    split = pd.Series("", index=table.index, dtype="str")
    manifold = _draw_manifold(table, rule, problems)
    split[manifold] = "manifold"
    in_manifold = table["group"].isin(table.loc[manifold, "group"])
    left = table[in_manifold & (split == "") & (table["role"] == "source")]
    if len(left):
        told = ", ".join(f"{source} {count:,}" for source, count in left["source"].value_counts().sort_index().items())
        notes.append(
            f"groups: {counted(len(left))} left out, of groups whose reals form the manifold ({told}); a smaller "
            "manifold_fraction or manifold_size leaves out fewer, and a folder manifold-<name> of other reals none"
        )
    rest = table[~in_manifold & (table["role"] == "source")]
    rest = rest.groupby("source", sort=False).head(rule.images_per_source or len(rest))
    sources = sorted(table.loc[table["role"] == "source", "source"].unique())
    counts = rest["source"].value_counts()
    targets = np.array([rule.sizes(int(counts.get(source, 0))) for source in sources])  # (sources, splits)
    split[rest.index] = _deal(rest, sources, targets, rule)
    _report(table, split, left, sources, targets, rule, problems, notes)
    return split.reindex(rows.index)


def _group_order(table: pd.DataFrame, seed: int) -> pd.Series:
    """Sort key of each row: of (seed, group) where several images share it, else of (seed, content)."""
    names = pd.Series(table["group"].unique())
    keys = draw_order(names, seed)
    order = table["group"].map(dict(zip(names, keys, strict=True)))
    shared = table.groupby("group")["group"].transform("size") > 1
    return order.where(shared, table["by_content"])


def _draw_manifold(table: pd.DataFrame, rule: SplitRule, problems: Problems) -> pd.Index:
    """Rows of the manifold: those of its folder, or whole groups of reals up to each source's share."""
    own = table[table["role"] == "manifold"]
    if len(own):
        return own.sort_values("by_content", kind="stable").index[: rule.manifold_size]
    real = table["source"].str.startswith("real-")
    reals = table[real]
    if reals.empty:  # reported where the sources are listed
        return reals.index
    totals = reals["source"].value_counts().sort_index()
    shares = manifold_shares({str(source): int(count) for source, count in totals.items()}, rule)
    wanted = np.array([shares[str(source)] for source in totals.index])
    counts = _counts(reals, [str(source) for source in totals.index])
    generated = pd.Index(counts.index).isin(table.loc[~real, "group"])
    order = reals.groupby("group")["order"].first()[counts.index]
    places = np.lexsort((order.to_numpy(dtype=str), generated))
    matrix = counts.to_numpy()
    taken, chosen = np.zeros_like(wanted), []
    for place in places:
        if (taken == wanted).all():
            break
        after = taken + matrix[place]
        fits = rule.manifold_size is None or after.sum() <= rule.manifold_size
        if fits and np.abs(wanted - after).sum() < np.abs(wanted - taken).sum():
            taken = after
            chosen.append(counts.index[place])
    if not chosen:
        told = ", ".join(f"{source} ({counted(int(count))})" for source, count in totals.items())
        problems.add(Kind.TOO_FEW, f"{told}: no group for the manifold with manifold_fraction {rule.manifold:g}")
    return reals.index[reals["group"].isin(chosen)]


def _counts(table: pd.DataFrame, sources: list[str]) -> pd.DataFrame:
    """Images of each group (rows, in order of the table) by source (columns)."""
    counts = table.groupby(["group", "source"], sort=False).size().unstack(fill_value=0)
    return counts.reindex(index=table["group"].unique(), columns=sources, fill_value=0)


def _deal(rest: pd.DataFrame, sources: list[str], targets: NDArray[np.int64], rule: SplitRule) -> pd.Series:
    """Split of each row, sorted by order: groups of several images first, then the images alone."""
    split = pd.Series("", index=rest.index, dtype="str")
    shared = rest.groupby("group")["group"].transform("size") > 1
    counts = _counts(rest[shared], sources)
    matrix = counts.to_numpy()
    filled = np.zeros_like(targets)
    room = np.maximum(targets, 0.5)
    closed = np.array(rule.fractions) <= 0
    chosen = np.zeros(len(matrix), dtype=np.int64)
    for place in np.argsort(-matrix.sum(axis=1), kind="stable"):
        empty = np.where(closed, -np.inf, matrix[place] @ ((targets - filled) / room))
        chosen[place] = int(empty.argmax())
        filled[:, chosen[place]] += matrix[place]
    names = dict(zip(counts.index, np.array(DIVIDED)[chosen], strict=True))
    split[shared] = rest.loc[shared, "group"].map(names)
    for source, index in rest[~shared].groupby("source").groups.items():
        row = sources.index(str(source))
        ranked = rest.loc[index, "by_content"].sort_values().index
        missing = np.maximum(targets[row] - filled[row], 0)
        ends = np.rint(missing.cumsum() * len(ranked) / max(missing.sum(), 1)).astype(int)
        for name, start, end in zip(DIVIDED, [0, *ends[:-1]], ends, strict=True):
            split[ranked[start:end]] = name
    return split


def _report(
    table: pd.DataFrame,
    split: pd.Series,
    left: pd.DataFrame,
    sources: list[str],
    targets: NDArray[np.int64],
    rule: SplitRule,
    problems: Problems,
    notes: list[str],
) -> None:
    """Sources without an image in a split are problems; sizes that groups do not allow are one note."""
    moved = []
    for source, target in zip(sources, targets, strict=True):
        own = table["source"] == source
        found = [int(((split == name) & own).sum()) for name in DIVIDED]
        counts = zip(DIVIDED, rule.fractions, found, strict=True)
        missing = [name for name, share, count in counts if share > 0 and count == 0]
        if missing:
            groups = counted(int(table.loc[own & split.isin(DIVIDED), "group"].nunique()), "group")
            excluded = int((left["source"] == source).sum())
            why = f", {excluded} of them left out because their groups have reals in the manifold" if excluded else ""
            problems.add(
                Kind.TOO_FEW,
                f"{source}: {counted(int(own.sum()))}{why}, {sum(found)} to divide in {groups}: none left for "
                f"{', '.join(missing)}; at least {rule.least()} groups of one size are needed",
            )
        elif max(abs(np.array(found) - target)) > max(1, _TOLD_FROM * sum(found)):
            sizes = zip(DIVIDED, found, target, strict=True)
            moved.append(f"{source} " + ", ".join(f"{name} {count} for {wanted}" for name, count, wanted in sizes))
    if moved:
        notes.append("groups do not allow the sizes asked for: " + "; ".join(moved))
