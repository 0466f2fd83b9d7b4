"""One picture, one place: copies within a source are dropped, copies across sources are problems."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from datamodules.gm_index.problems import Kind, Problems, counted

Duplicates = Literal["error", "drop"]


def drop_duplicates(rows: pd.DataFrame, policy: Duplicates, problems: Problems, notes: list[str]) -> pd.DataFrame:
    """Leave each picture once. Two files are one picture when their pixels are equal after the pixel path.

    Args:
        rows: Table with ``path``, ``source``, ``role``, ``split``, ``content``, ``final``.
        policy: What becomes of a picture that several sources share: ``error`` reports it, ``drop`` leaves out every
            copy.
        problems: Takes shared pictures, pictures of a source that stand in the manifold too, and copies in several
            given splits.
        notes: Takes a line for each source that lost copies.

    Returns:
        The rows that remain; of copies within a source the one with the lowest content id, then path.
    """
    rows = rows.sort_values(["content", "path"], kind="stable")
    copies = rows[rows.duplicated("final", keep=False)]
    leave: set[int] = set()
    for _, group in copies.groupby("final", sort=True):
        where = ", ".join(f"{row.path}{f' ({row.split})' if row.split else ''}" for row in group.itertuples())
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
