"""A report as one self-contained HTML page: headline numbers, tables, figures, collapsible configuration.

Nothing is loaded from elsewhere, so the page can be mailed, archived and read offline. No script runs, but for that of
sortable tables, which is in the page and without which they are tables all the same. All text is escaped.
"""

from __future__ import annotations

import base64
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from lightning_modules.common.files import write_bytes, write_text
from lightning_modules.metrics.intervals import Estimate
from lightning_modules.reporting.formatting import (
    MISSING,
    format_interval,
    format_number,
    format_percent,
    interval_name,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_STYLE = Markup("")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Number:
    """A cell whose text is not just its number: `"71.3 ± 0.4 %"`."""

    text: str
    value: float | None  # to sort by
    interval: str = ""


Cell = str | int | float | Estimate | Number | None


@dataclass(frozen=True)
class Headline:
    """One number at the top of the page."""

    label: str  # what it is: `"Accuracy"`
    value: str  # as it is to be read: `"71.3 %"`
    note: str = ""  # what has to stand beside it: interval, n, chance

    @classmethod
    def of(cls, label: str, estimate: Estimate, *, percent: bool = False, note: str = "") -> Headline:
        """The headline of an estimate: its value, its interval and n, and then `note`."""
        value, interval = _cell(estimate, percent)
        known = f"{interval} ({interval_name(estimate)})" if interval else ""
        number = f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{estimate.n:,}"
        return cls(label, value, "; ".join(part for part in (known, number, note) if part))


@dataclass(frozen=True)
class Summary:
    """The top of the page: a sentence or two, what a reader must not miss, and the headline numbers."""

    text: str = ""
    warnings: Sequence[str] = field(default=(), kw_only=True)
    headlines: Sequence[Headline] = ()


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Table:
    """A table; columns that hold numbers are set flush right, in figures of equal width.

    Raises:
        ValueError: a row has another number of cells, or `percent` or `right` names no column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]  # numbers are rounded for reading, estimates shown with their interval
    caption: str = ""  # what the reader sees and how it was computed
    percent: Sequence[str] = ()  # columns whose numbers are shares to be shown in percent
    right: Sequence[str] = ()  # columns to set flush right although they hold text
    sortable: bool = False  # whether the reader can sort it by a column and filter its rows
    kind: str = field(default="table", init=False)

    def __post_init__(self) -> None:
        """Check the shape, where the mistake is made."""
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} has {len(row)} cells; expected {len(self.columns)}: {list(self.columns)}"
                )
        unknown = [name for name in (*self.percent, *self.right) if name not in self.columns]
        if unknown:
            raise ValueError(f"percent or right names {unknown}; expected some of the columns {list(self.columns)}")

    @property
    def numeric(self) -> list[bool]:
        """Whether each column is set flush right: it holds numbers (empty cells aside), or `right` names it."""
        cells = [[row[place] for row in self.rows if row[place] is not None] for place in range(len(self.columns))]
        return [
            name in self.right or (bool(column) and not any(isinstance(cell, str) for cell in column))
            for name, column in zip(self.columns, cells, strict=True)
        ]

    @property
    def shown(self) -> list[list[tuple[str, str]]]:
        """Each cell as (number or text, interval)."""
        shares = [name in self.percent for name in self.columns]
        return [[_cell(cell, share) for cell, share in zip(row, shares, strict=True)] for row in self.rows]

    @property
    def keys(self) -> list[list[str]]:
        """What each cell is sorted by: its number in full precision; empty for text, which sorts as it reads."""
        return [[_sort_key(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Drawing:
    """Drawn by the page itself: markup of this project, whose text is escaped."""

    title: str
    markup: Markup
    kind: str = field(default="drawing", init=False)


@dataclass(frozen=True)
class FigureBlock:
    """A figure.

    Raises:
        ValueError: no alternative text.
    """

    figure: Figure | bytes | Path  # bytes and files are PNG
    caption: str  # what the reader sees and how it was made
    alt: str  # what it shows, for a reader who does not see it
    wide: bool = True  # whether it takes the whole width; others stand two in a row where the window allows
    kind: str = field(default="figure", init=False)

    def __post_init__(self) -> None:
        """Check the text, where the mistake is made."""
        if not self.alt.strip():
            raise ValueError(f"the figure {self.caption!r} has no alternative text; say in `alt` what it shows")

    @functools.cached_property
    def _png(self) -> bytes:
        if isinstance(self.figure, Path):
            content = self.figure.read_bytes()
        elif isinstance(self.figure, bytes):
            content = self.figure
        else:
            from lightning_modules.reporting.figures.style import to_png  # here: a page of tables needs no matplotlib

            return to_png(self.figure)
        if not content.startswith(_PNG):
            raise ValueError(f"the figure {self.caption!r} is no PNG image; give a matplotlib figure or PNG bytes")
        return content

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self._png).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the PNG header, so that the page does not jump while it loads."""
        return int.from_bytes(self._png[16:20]), int.from_bytes(self._png[20:24])


@dataclass(frozen=True)
class Details:
    """A block that is folded away until the reader opens it: configuration, provenance, long lists."""

    title: str
    content: str | Mapping[str, Any] | Table  # text is shown as it is (YAML)
    kind: str = field(default="details", init=False)


Block = Text | Table | FigureBlock | Drawing | Details


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading: an introduction, then blocks in order."""

    title: str
    blocks: Sequence[Block]
    intro: str = ""

    @property
    def anchor(self) -> str:
        """The heading's name in links within the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


def render_report(
    path: Path, *, title: str, summary: Summary, sections: Sequence[Section], style: Markup = _NO_STYLE
) -> None:
    """Write the page, atomically; `style` is what its drawings add to the style sheet.

    Raises:
        ValueError: two sections have the same title, or a figure is no PNG; nothing is written.
    """
    anchors = [section.anchor for section in sections]
    twice = sorted({section.title for section in sections if anchors.count(section.anchor) > 1})
    if twice:
        raise ValueError(f"sections {twice} have the same name in links; give each its own title")
    template = _environment().get_template("report.html.j2")
    blocks = [block for section in sections for block in section.blocks]
    tables = [block.content if isinstance(block, Details) else block for block in blocks]
    sortable = any(isinstance(table, Table) and table.sortable for table in tables)
    write_text(path, template.render(title=title, summary=summary, sections=sections, style=style, sortable=sortable))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["pairs"] = lambda content: isinstance(content, Mapping)
    environment.tests["table"] = lambda content: isinstance(content, Table)
    return environment


def _cell(cell: Cell, percent: bool) -> tuple[str, str]:
    if isinstance(cell, Estimate):
        interval = format_interval(cell, percent=percent)
        return _cell(cell.value, percent)[0], "" if interval == MISSING else interval
    if isinstance(cell, Number):
        return cell.text, cell.interval
    if cell is None:
        return MISSING, ""
    if isinstance(cell, str | bool):
        return str(cell), ""
    return (format_percent(cell) if percent else format_number(cell)), ""


def _sort_key(cell: Cell) -> str:
    value = cell.value if isinstance(cell, Estimate | Number) else cell
    return "" if value is None or isinstance(value, str) or math.isnan(value) else repr(float(value))


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> dict[str, Path]:
    """Write `figures/NAME.png` into a run folder; returns the paths by name."""
    from lightning_modules.reporting.figures.style import to_png

    paths = {name: folder / "figures" / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        write_bytes(paths[name], to_png(figure))
    return paths


def run_section(folder: Path, paths: Mapping[str, Path], caption: str, facts: Sequence[Block]) -> Section:
    """Training curves, if there are any, with their caption, facts, and the files that say how the run was made."""
    curves = [FigureBlock(paths["training"], caption, "Training curves")] if "training" in paths else []
    files = [folder / name for name in ("config.yaml", "provenance.json")]
    blocks = [*curves, *facts, *(Details(file.name, file.read_text()) for file in files if file.is_file())]
    return Section("Run", blocks or [Text("This run left no configuration.")])
