"""Format audit: can a source be told from its files without looking at the picture?

Detectors learn PNG against JPEG, or one JPEG quality against another, instead of the generator (ManiFPT notes, section
8). For each attribute of the files the audit asks how well a majority vote names the source: for each value of the
attribute, the source in which the value is most frequent.

- **Accuracy** is balanced over sources and cross-fitted on two halves: the vote is taken on one half and scored on the
  other. Chance is 1 / number of sources.
- **Significance** is an exact permutation test: the vote's balanced accuracy on all images against its distribution
  over tables with the same margins (the attribute shuffled over the images), which holds the vote's own optimism too;
  Bonferroni-corrected over the attributes that vary.

An attribute leaks when the test rejects at 1 % and the cross-fitted accuracy is above chance by more than ``MARGIN /
number of sources``, so that one odd file in a large data set does not stop a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import random_table

from datamodules.gm_index.splits import draw_order
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import Kind, Problems, counted

ATTRIBUTES = {
    "file format": "format",
    "file extension": "extension",
    "JPEG quantisation tables": "jpeg_tables",
    "JPEG chroma subsampling": "jpeg_chroma",
    "metadata": "metadata",
    "size (width x height)": "size",
    "mode": "mode",
}
# scaling, palettes and grey leave traces that no re-encoding removes
STAY_IN_PIXELS = ("size (width x height)", "mode")
TOGETHER = "all of them together"
SIGNIFICANCE = 0.01
MARGIN = 0.01  # in sources recovered beyond chance: one image in a hundred of one source
_PER_SOURCE = 2_000  # images of each source that are looked at; enough to see 1 %
_DRAWS = 1_999
_SHOWN = 6  # values with a column of their own in the table
_WIDE = 16  # characters; longer values stand in a legend
_VALUES = 100  # rarer values are one value: a value seen once cannot be voted on


@dataclass(frozen=True)
class Leak:
    """One attribute that varies, and how well it names the source.

    Attributes:
        accuracy: Cross-fitted balanced accuracy of the vote, in [0, 1].
        p_value: Of the permutation test, uncorrected.
        leaks: Whether it predicts the source better than chance.
        table: Share of each value in each source, as text.
        named: Images of each source, in the order of their names, that the vote names rightly; ties share the vote.
        images: Images of each source that were looked at.
    """

    attribute: str
    accuracy: float
    chance: float
    p_value: float
    leaks: bool
    table: str
    named: list[float]
    images: list[int]

    @property
    def summary(self) -> str:
        """Accuracy against chance and p-value, in a line."""
        return (
            f"{self.attribute}: names the source with accuracy {self.accuracy:.3f} "
            f"(chance {self.chance:.3f}, p = {self.p_value:.4f})"
        )


def _counts(values: NDArray[np.int64], sources: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int64]:
    flat = np.bincount(values * shape[1] + sources, minlength=shape[0] * shape[1])
    return flat.reshape(shape).astype(np.int64)  # (values, sources)


def balanced_vote(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Balanced accuracy of the majority vote on the images it was taken from, by value and source `(..., V, K)`."""
    shares = counts / counts.sum(axis=-2, keepdims=True).clip(min=1)
    return np.asarray(shares.max(axis=-1).sum(axis=-1) / counts.shape[-1])


def cross_fitted_votes(
    values: NDArray[np.int64], sources: NDArray[np.int64], half: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Images of each source that a vote taken on the other half names rightly, (K,).

    Ties share the vote, so that a value unseen in the other half counts as chance. Values and sources are numbers
    from 0, ``half`` says which images are the first half, (N,) each.
    """
    shape = (int(values.max()) + 1, int(sources.max()) + 1)
    named = np.zeros(shape[1])
    for learn in (half, ~half):
        seen, scored = _counts(values[learn], sources[learn], shape), _counts(values[~learn], sources[~learn], shape)
        shares = seen / seen.sum(axis=0).clip(min=1)
        best = shares == shares.max(axis=1, keepdims=True)
        vote = best / best.sum(axis=1, keepdims=True)
        named += (vote * scored).sum(axis=0)
    return named


def permutation_p_value(counts: NDArray[np.int64], seed: int = 0) -> float:
    """Probability that a shuffled attribute votes at least as well, from images by value and source, (V, K).

    Tables with the same margins are drawn by scipy's ``random_table``; a fixed seed gives the same verdict each time.
    """
    observed = balanced_vote(counts)
    draw = random_table(counts.sum(axis=1), counts.sum(axis=0), seed=np.random.default_rng(seed))
    sizes = np.diff(np.linspace(0, _DRAWS, 20).astype(int))
    votes = np.concatenate([balanced_vote(draw.rvs(size=size)) for size in sizes])
    return float((1 + np.sum(votes >= observed - 1e-12)) / (1 + _DRAWS))


def _table(values: pd.Series, sources: pd.Series) -> str:
    shares = pd.crosstab(sources, values, normalize="index")
    order = shares.sum().sort_values(ascending=False, kind="stable").index
    shown = shares[order[:_SHOWN]].copy()
    if len(order) > _SHOWN:
        shown[f"{len(order) - _SHOWN} other values"] = 1 - shown.sum(axis=1)
    names = [str(name) or "(none)" for name in shown.columns]
    legend = []
    if max(map(len, names)) > _WIDE:
        legend = [f"{letter} = {name}" for letter, name in zip(ascii_uppercase, names, strict=False)]
        names = list(ascii_uppercase[: len(names)])
    width = max(len(str(source)) for source in shown.index)
    lines = [" " * width + "".join(f"  {name:>6}" for name in names)]
    for source, row in shown.iterrows():
        cells = (f"  {value:>{max(6, len(name))}.1%}" for value, name in zip(row, names, strict=True))
        lines.append(f"{source!s:<{width}}" + "".join(cells))
    return "\n".join(legend + lines)


def _sample(rows: pd.DataFrame) -> pd.DataFrame:
    order = draw_order(rows["content"], seed=0).sort_values().index
    return rows.loc[order].groupby("source").head(_PER_SOURCE)


def audit_formats(rows: pd.DataFrame, pixel_path: PixelPath) -> list[Leak]:
    """Every attribute of the labelled images' files that varies, best predictor first; those that leak are marked.

    ``rows`` has ``source``, ``content`` and the columns of ``FileFacts``, of at least two sources. Where the pixel path
    re-encodes, only what stays in the decoded pixels (size and mode) is audited.
    """
    rows = _sample(rows)
    names = list(ATTRIBUTES) if pixel_path.reencode == "none" else list(STAY_IN_PIXELS)
    joined = {name: rows[ATTRIBUTES[name]] for name in names}
    varying = {name: values for name, values in joined.items() if values.nunique() > 1}
    if len(varying) > 1:
        first, *others = varying.values()
        varying[TOGETHER] = sum((" | " + other for other in others), start=first)
    sources, labels = pd.factorize(rows["source"], sort=True)
    # rows stand in the order of a hash: an alternation is a random half
    half = rows.groupby("source").cumcount().to_numpy() % 2 == 0
    leaks = []
    for name, values in varying.items():
        kept = values.value_counts().index[:_VALUES]
        merged = values.where(values.isin(kept), "rarer values")
        codes, found = pd.factorize(merged, sort=True)
        counts = _counts(codes, sources, (len(found), len(labels)))
        named, images = cross_fitted_votes(codes, sources, half), counts.sum(axis=0)
        accuracy, p_value = float((named / images).mean()), permutation_p_value(counts)
        chance = 1 / len(labels)
        better = p_value * len(varying) <= SIGNIFICANCE and accuracy > chance + MARGIN / len(labels)
        table = _table(merged, rows["source"])
        leaks.append(Leak(name, accuracy, chance, p_value, better, table, named.tolist(), images.tolist()))
    return sorted(leaks, key=lambda leak: -leak.accuracy)


def lossy_history(rows: pd.DataFrame, pixel_path: PixelPath) -> list[Leak]:
    """What re-encoding hides but does not undo: JPEG and lossy WebP leave their traces in the decoded pixels.

    Empty without ``reencode``, where the audit itself covers it.
    """
    if pixel_path.reencode == "none":
        return []
    codec = rows["format"].where(rows["format"].isin(["JPEG", "WEBP lossy"]), "lossless")
    history = (codec + " " + rows["jpeg_tables"] + " " + rows["jpeg_chroma"]).str.strip()
    plain = rows.assign(format=history, extension="", jpeg_tables="", jpeg_chroma="", metadata="", size="", mode="")
    return [leak for leak in audit_formats(plain, PixelPath()) if leak.leaks]


def describe(leaks: list[Leak]) -> str:
    """The leaks as text: accuracy against chance, p-value, and the table of shares."""
    return "\n".join(leak.summary + "\n" + "\n".join("  " + line for line in leak.table.splitlines()) for leak in leaks)


Duplicates = Literal["error", "drop"]


def drop_duplicates(rows: pd.DataFrame, policy: Duplicates, problems: Problems, notes: list[str]) -> pd.DataFrame:
    """Leave each picture once. Two files are one picture when their pixels are equal after the pixel path.

    Of copies within a source the one with the lowest content id, then path, remains. A picture that several sources
    share is a problem with the policy ``error``; ``drop`` leaves out every copy. Pictures in the manifold and a source,
    and copies in several given splits, are problems; ``notes`` take a line for each source that lost copies.
    """
    rows = rows.sort_values(["content", "path"], kind="stable")
    copies = rows[rows.duplicated("final", keep=False)]
    leave: set[int] = set()
    for _, group in copies.groupby("final", sort=True):
        named = group[["path", "split"]].to_numpy()
        where = ", ".join(path + (f" ({split})" if split else "") for path, split in named)
        if group["role"].nunique() > 1:
            problems.add(Kind.MANIFOLD_OVERLAP, where)
        elif group["source"].nunique() > 1 and (group["role"] == "source").all():
            if policy == "error":
                problems.add(Kind.DUPLICATE_SOURCES, where)
            else:
                leave.update(group.index)
                continue
        elif group["split"].nunique() > 1:
            problems.add(Kind.DUPLICATE_SPLITS, where)
        leave.update(group.index[1:])
    dropped = rows.loc[sorted(leave)]
    for source, count in dropped["source"].value_counts().sort_index().items():
        notes.append(f"{source}: {counted(count, 'file')} left out, copies of other files")
    return rows.drop(index=sorted(leave)).sort_index()
