"""`evaluate.py index`: the images of a GM data set as an index file, with what each of them shows where asked for."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_modules.cli.parser import CommandParser
from lightning_modules.common.files import check_file, write_text
from lightning_modules.common.shipped import program
from lightning_modules.common.tables import Table, check_name

CLASSIFIERS = Table("classifier", {"fashion": "lightning_modules.metrics.fashion_cnn:garments"})
"""Functions `(images uint8 (n, 3, H, W)) -> (names of what they show, probabilities (n,))`."""
COLUMNS = {"fashion": "garment"}
_BATCH = 256


def index(args: list[str]) -> Path:
    """List the images of a data set (`ROOT/<family>-<model>/`, `ROOT/real-<name>/`) in a CSV file: path and source.

    Use it with --data.init_args.root ROOT --data.init_args.index_file FILE; more columns can be written into it, such
    as `split`, `group` and what `train_where` names.
    """
    parser = CommandParser("index", index.__doc__)
    parser.add_argument("root", type=Path, help="folder of the data set")
    parser.add_argument("--out", type=Path, help="CSV file; default: index.csv in ROOT")
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
        rows = _listed(asked.root)
        check_file(out, "--out")
        if out.exists():  # it may hold columns that somebody wrote
            raise ValueError(f"{out} is already there; move it away, or name another file with --out")
        head = ["path", "source"]
        if asked.classify is not None:
            column = asked.column or COLUMNS.get(asked.classify, asked.classify)
            head += [column, f"{column}_probability"]
            shown = _classified(asked.root, [path for path, _ in rows], asked.classify)
            rows = [(*row, name, f"{probability:.4f}") for row, (name, probability) in zip(rows, shown, strict=True)]
    except (ValueError, OSError) as error:
        raise SystemExit(f"{program('index')}: {error}") from error
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([head, *rows])
    write_text(out, written.getvalue())
    print(out)
    return out


def _listed(root: Path) -> list[tuple[str, ...]]:
    """Path from the root and source of every image."""
    from datamodules.gm_index.sources import discover_folders
    from datamodules.images.image_search import LeftOut, left_out_line
    from datamodules.images.problems import Problems

    problems, left_out = Problems(f"GM data set {root}"), list[LeftOut]()
    entries = discover_folders(root, problems, left_out)
    problems.raise_if_any()
    if left_out:
        sys.stderr.write(f"note: {root}: {left_out_line(len(entries), left_out, None)}\n")
    return list(entries[["path", "source"]].itertuples(index=False, name=None))


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
