"""What the paper prints, to stand beside our numbers: `paper_numbers.yaml`."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_modules.reporting.page import Number
from lightning_modules.reporting.result_tables.result_table import Grid, Value


@functools.cache
def paper_numbers() -> Mapping[str, Any]:
    """The content of the file."""
    found: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("paper_numbers.yaml").read_text())
    return found


def data_set_of_paper(name: str) -> str | None:
    """The paper's name of a data set, by that of its folder; None for one that it has not."""
    found: str | None = paper_numbers()["data_sets"].get(re.sub(r"[^a-z0-9]", "", name.lower()))
    return found


def method_of_paper(label: str) -> str | None:
    """The paper's name of a method that one of our configs trains; None for any other."""
    found: str | None = paper_numbers()["configs"].get(label.rpartition("/")[2])
    return found


def share(percent: float) -> Number:
    """A share that is printed in percent, as printed."""
    return Number(f"{percent:.1f}\N{NO-BREAK SPACE}%", percent / 100)


def number(value: float) -> Number:
    """A number as printed."""
    return Number(f"{value:.1f}" if value >= 1 else f"{value:.3f}", value)


def paper_grid(title: str, table: str, columns: Sequence[str], corner: str = "method", shares: bool = True) -> Grid:
    """A table of the paper that has one number a cell, as a grid of its own."""
    found = paper_numbers()[table]
    show = share if shares else number
    cells: dict[tuple[str, str], Value] = {
        (row, column): show(value) for row, values in found.items() for column, value in values.items()
    }
    return Grid(title, corner, list(found), columns, cells, intro=paper_numbers()["citation"] + ".")
