"""A table of results: grids of numbers, as Markdown, as CSV in full precision, and as a page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.experiments import Spread
from lightning_modules.reporting.formatting import format_spread, markdown_rows
from lightning_modules.reporting.page import Cell, Number, Section, Summary, Table, render_report

Value = Spread | Estimate | Number | int | float | str
COLUMNS = ("table", "row", "column", "value", "std", "low", "high", "n", "seeds")
"""Of `table.csv`: a line for each number."""


@dataclass(frozen=True)
class TableOptions:
    """What some tables take beside runs.

    Attributes:
        sources: Of `two_seeds`: the pair to tell apart; None to find it by its names.
        designs: Of `clusters`: a YAML file of design choices by source; None for what the runs say.
    """

    sources: tuple[str, str] | None = None
    designs: Path | None = None


@dataclass(frozen=True)
class Grid:
    """Numbers by row and column; where there is none, the cell stays empty."""

    title: str
    corner: str  # what the rows are
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], Value]  # by row and column
    shares: Collection[str] = ()  # columns whose numbers are shares, to be shown in percent
    intro: str = ""
    caption: str = ""

    def table(self, *, sortable: bool = False) -> Table:
        """The grid as the page and the terminal show it."""
        rows = [[row, *(self._cell(row, column) for column in self.columns)] for row in self.rows]
        numbers = [column for column in self.columns if not self._is_text(column)]
        shares = [column for column in self.columns if column in self.shares]
        return Table([self.corner, *self.columns], rows, self.caption, percent=shares, right=numbers, sortable=sortable)

    def lines(self) -> Iterator[list[str]]:
        """One line of the CSV for each cell that holds something."""
        for row in self.rows:
            for column in self.columns:
                if (value := self.cells.get((row, column))) is not None:
                    yield [self.title, row, column, *_exact(value)]

    def _is_text(self, column: str) -> bool:
        return any(isinstance(self.cells.get((row, column)), str) for row in self.rows)

    def _cell(self, row: str, column: str) -> Cell:
        value = self.cells.get((row, column))
        if not isinstance(value, Spread):
            return value
        if value.single is not None:
            return value.single
        return Number(format_spread(value.mean, value.std, percent=column in self.shares), value.mean)


@dataclass(frozen=True)
class ResultTable:
    """Everything that one command shows."""

    title: str
    grids: Sequence[Grid]
    text: str = ""  # a sentence or two on top
    notes: Sequence[str] = ()  # what a reader has to know

    def to_markdown(self) -> str:
        """All grids as GitHub shows them, notes below."""
        lines = [f"# {self.title}", *(["", self.text] if self.text else [])]
        for grid in self.grids:
            table = grid.table()
            shown = [[f"{text} ({interval})" if interval else text for text, interval in row] for row in table.shown]
            lines += ["", f"## {grid.title}", "", *([grid.intro, ""] if grid.intro else [])]
            lines += markdown_rows(table.columns, shown)
            lines += ["", table.caption] if table.caption else []
        if self.notes:
            lines += ["", *(f"- Note: {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """A line for each number, in full precision: `COLUMNS`."""
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(COLUMNS)
        for grid in self.grids:
            writer.writerows(grid.lines())
        return written.getvalue()

    def write_html(self, path: Path) -> None:
        """A self-contained page: tables that sort and filter."""
        sections = [Section(grid.title, [grid.table(sortable=True)], grid.intro) for grid in self.grids]
        render_report(path, title=self.title, summary=Summary(self.text, warnings=self.notes), sections=sections)


def _exact(value: Value) -> list[str]:
    """Value, std, low, high, n, seeds."""
    if isinstance(value, Spread):
        one = value.single
        ends = (None, None) if one is None else (one.low, one.high)
        n = "" if one is None else str(one.n)
        return [*_numbers(value.mean, value.std, *ends), n, str(value.seeds)]
    if isinstance(value, Estimate):
        return [*_numbers(value.value, None, value.low, value.high), str(value.n), ""]
    if isinstance(value, Number):
        return [*_numbers(value.value, None, None, None), "", ""]
    return [value if isinstance(value, str) else repr(value), "", "", "", "", ""]


def _numbers(*values: float | None) -> list[str]:
    return ["" if one is None or math.isnan(one) else repr(float(one)) for one in values]
