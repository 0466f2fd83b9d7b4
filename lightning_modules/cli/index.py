"""`evaluate.py index`: the images of a GM data set as an index file, with what each of them shows where asked for."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.cli.parser import CommandParser
from lightning_modules.common.files import check_file, write_text
from lightning_modules.common.shipped import program
from lightning_modules.common.tables import Table, check_name

if TYPE_CHECKING:
    import pandas as pd

CLASSIFIERS = Table("classifier", {"fashion": "lightning_modules.metrics.fashion_cnn:garments"})
"""Functions `(images uint8 (n, 3, H, W)) -> (names of what they show, probabilities (n,))`."""
COLUMNS = {"fashion": "garment"}
_BATCH = 256


def index(args: list[str]) -> Path:
    """List the images of a data set (`ROOT/<family>-<model>/`, `ROOT/real-<name>/`) in a CSV file: path and source.

    With --layout the folders are those of a published data set; with --csv a table of paths is checked and completed.
    Use it with --data.init_args.root ROOT --data.init_args.index_file FILE; more columns can be written into it, such
    as `split`, `group` and what `train_where` names.
    """
    parser = CommandParser("index", index.__doc__)
    parser.add_argument("root", type=Path, help="folder of the data set")
    parser.add_argument("--out", type=Path, help="CSV file; default: index.csv in ROOT")
    parser.add_argument(
        "--layout",
        metavar="NAME",
        help="how the folders lie: gm (the default); genimage: GENERATOR/train/ and val/ with ai/ and nature/; "
        "imageattributionbench: MODEL/CLASS/ or MODEL/KIND/CLASS/. More columns are written where the folders tell "
        "them: split, group, class, kind",
    )
    parser.add_argument(
        "--csv",
        metavar="FILE",
        type=Path,
        help="take the images from a table with the columns path (from ROOT) and source, if wanted split (train, val, "
        "test, manifold) and group, and any more, such as what an image shows",
    )
    parser.add_argument(
        "--classify",
        metavar="NAME",
        help="add what a classifier sees in each image, and how probable it finds it: fashion, for the garments of "
        "GM-Fashion (92 %% of real ones are right)",
    )
    parser.add_argument("--column", help="what to call the classifier's column; default: garment")
    asked = parser.parse_args(args)
    out: Path = asked.out or asked.root / "index.csv"
    try:
        if asked.classify is not None:
            check_name("classifier", asked.classify, CLASSIFIERS)
        elif asked.column is not None:
            raise ValueError("--column names the column of --classify, which is not given; leave it out, or give both")
        if asked.csv is not None and asked.layout is not None:
            raise ValueError("found both --layout and --csv; give one: the images come from folders or from a table")
        table = _listed(asked.root, asked.layout or "gm") if asked.csv is None else _tabled(asked.csv, asked.root)
        check_file(out, "--out")
        if out.exists():  # it may hold columns that somebody wrote
            raise ValueError(f"{out} is already there; move it away, or name another file with --out")
        if asked.classify is not None:
            column = asked.column or COLUMNS.get(asked.classify, asked.classify)
            for new in (column, f"{column}_probability"):
                if new in table:
                    raise ValueError(f"found the column {new} already; name that of the classifier with --column")
            shown = _classified(asked.root, list(table["path"]), asked.classify)
            table[column] = [name for name, _ in shown]
            table[f"{column}_probability"] = [f"{probability:.4f}" for _, probability in shown]
    except (ValueError, OSError) as error:
        raise SystemExit(f"{program('index')}: {error}") from error
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([list(table), *table.itertuples(index=False, name=None)])
    write_text(out, written.getvalue())
    print(out)
    return out


def _listed(root: Path, layout: str) -> pd.DataFrame:
    """Path from the root, source and what else the folders tell of every image."""
    from datamodules.gm_index.layouts import LAYOUTS, UNKNOWN, unknown_sources
    from datamodules.images.image_search import LeftOut, left_out_line
    from datamodules.images.problems import LISTING, Problems

    list_images = LAYOUTS.load(layout)
    problems, left_out = Problems(f"data set {root}", LISTING), list[LeftOut]()
    table: pd.DataFrame = list_images(root, problems, left_out)
    problems.raise_if_any()
    if left_out:
        sys.stderr.write(f"note: {root}: {left_out_line(len(table), left_out, None)}\n")
    if unknown := unknown_sources(table):
        sys.stderr.write(
            f"note: {root}: no family is known of {', '.join(unknown)}; where you know it, put it in place of "
            f"{UNKNOWN!r} in the column source\n"
        )
    return table


def _tabled(file: Path, root: Path) -> pd.DataFrame:
    """The rows of a table of paths, all of them right."""
    from datamodules.gm_index.path_table import read_path_table

    return read_path_table(file, root)


def _classified(root: Path, paths: Sequence[str], classifier: str) -> list[tuple[str, float]]:
    """What each image shows, and with which probability."""
    import numpy as np
    import torch

    from datamodules.images.image_io import decode_image, text_path

    classify = CLASSIFIERS.load(classifier)
    found: list[tuple[str, float]] = []
    for start in range(0, len(paths), _BATCH):
        pixels = [decode_image(root / text_path(path)) for path in paths[start : start + _BATCH]]
        if len({one.shape for one in pixels}) > 1:
            raise ValueError(f"{root}: found images of several sizes; bring them to one size first")
        names, probabilities = classify(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
        found += zip(names, probabilities.tolist(), strict=True)
    return found
