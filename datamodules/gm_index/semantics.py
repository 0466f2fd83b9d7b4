"""Training on images of one kind of content, testing on others: what an image shows is a column of the index file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from datamodules.gm_index.splits import DIVIDED, SplitRule
from datamodules.images.problems import Kind, Problems, counted
from lightning_modules.common.tables import check_name

SEMANTIC = "semantic"
"""Column of the plan with what an image shows."""
OTHERS, ALL = "others", "all"


@dataclass(frozen=True)
class TrainWhere:
    """Which images training, validation and manifold may have; the test has the others, or all.

    Attributes:
        column: Of the index file.
        values: In this column, of images to learn from.
        test: ``others``: test images of other values; ``all``: of all values, each scored by itself as well.
    """

    column: str
    values: tuple[str, ...]
    test: str = OTHERS

    @classmethod
    def of(cls, given: Mapping[str, Any] | None, index_file: object) -> TrainWhere | None:
        """The setting `train_where` of `GMDataModule`, checked before anything is read.

        Raises:
            ValueError: unknown keys, no column or values, or no index file.
        """
        if given is None:
            return None
        for key in given:
            check_name("key of train_where", key, ("column", "values", "test"))
        values = given.get("values")
        values = [values] if isinstance(values, str) else values
        if not given.get("column") or not isinstance(values, list | tuple) or not values:
            raise ValueError(
                f"train_where is {dict(given)}; expected a column of the index file and the values to train on, such "
                "as {column: garment, values: [dress]}"
            )
        if index_file is None:
            raise ValueError(
                "train_where needs an index_file with a column that says what each image shows; `evaluate.py index "
                "ROOT --classify fashion` writes one of garments"
            )
        test = check_name("test of train_where", given.get("test", OTHERS), (OTHERS, ALL))
        return cls(str(given["column"]), tuple(map(str, values)), test)

    def choose(
        self, rows: pd.DataFrame, split: pd.Series, rule: SplitRule, problems: Problems, notes: list[str]
    ) -> pd.Series:
        """The split of each row (`train`, `val`, `test`, `manifold`, "" for none), less what this leaves out.

        ``problems`` takes values that no image has, images without a value, and sources of which a split has nothing
        left; ``notes`` what was left out.
        """
        shown = rows[SEMANTIC]
        if unknown := sorted(set(self.values) - set(shown)):
            known = ", ".join(sorted(set(shown) - {""}))
            problems.add(
                Kind.INDEX_FILE, f"no image has {', '.join(unknown)} in the column {self.column}; it has {known}"
            )
            return split
        if (missing := shown[split != ""] == "").any():
            first = rows.loc[missing[missing].index[0], "path"]
            where = f"{counted(int(missing.sum()))} without a value in the column {self.column}; first: {first}"
            problems.add(Kind.INDEX_FILE, where)
        own = shown.isin(self.values)
        kept = own.where(split != "test", ~own | (self.test == ALL))
        chosen = split.where(kept, "")
        wanted = [name for name, share in zip(DIVIDED, rule.fractions, strict=True) if share > 0]
        for source, group in chosen[rows["role"] == "source"].groupby(rows["source"]):
            if empty := [name for name in wanted if not (group == name).any()]:
                problems.add(Kind.TOO_FEW, f"{source}: train_where leaves none for {', '.join(empty)}")
        if not (chosen == "manifold").any():
            problems.add(Kind.NO_REAL, f"the manifold has no image with {', '.join(self.values)} in {self.column}")
        left = {name: int(((split == name) & (chosen == "")).sum()) for name in ("train", "val", "test", "manifold")}
        told = ", ".join(f"{name} {count:,}" for name, count in left.items())
        notes.append(f"train_where: learns from {self.column} {', '.join(self.values)} alone; left out: {told}")
        return chosen
