from __future__ import annotations

import base64
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from lightning_modules.metrics.intervals import Estimate, proportion
from lightning_modules.reporting.page import (
    Details,
    FigureBlock,
    Headline,
    Section,
    Summary,
    Table,
    Text,
    render_report,
)

VOID = {"meta", "img", "br", "link", "input", "hr"}
EVIL = "<script>alert('&')</script>"


class Page(HTMLParser):
    """A strict reader: every tag is closed by its own end tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def drawing() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([0, 1], [0, 1])
    return figure


def report(tmp_path: Path, evil: str = "") -> Page:
    accuracy = proportion(713, 1000)
    path = tmp_path / "report.html"
    render_report(
        path,
        title=f"attribution/rgb{evil}",
        summary=Summary(
            f"Six sources.{evil}",
            [Headline.of("Accuracy", accuracy, percent=True, note="chance 16.7 %"), Headline("FDR", "41.2", evil)],
        ),
        sections=[
            Section(
                f"Sources{evil}",
                [
                    Text(f"A paragraph.{evil}"),
                    Table(
                        ["source", "images", f"recall{evil}", "note"],
                        [[f"real{evil}", 12345, accuracy, None], ["dcgan", 7, 0.5, evil or None]],
                        caption=f"Wilson.{evil}",
                        percent=[f"recall{evil}"],
                    ),
                    FigureBlock(drawing(), f"A line.{evil}", f"a rising line{evil}", wide=False),
                ],
            ),
            Section("Method", [], intro=f"How.{evil}"),
            Section(
                "Provenance",
                [
                    Details(f"Configuration{evil}", f"model:\n  representation: artifact{evil}"),
                    Details("Versions", {"torch": "2.14", f"key{evil}": evil}),
                    Details("Rows", Table(["a"], [[1]])),
                ],
            ),
        ],
    )
    return Page(path.read_text(encoding="utf-8"))


def test_page_holds_what_it_was_given(tmp_path: Path):
    page = report(tmp_path)
    for text in (
        "attribution/rgb",
        "Six sources.",
        "71.3\u00a0%",
        "68.4 to 74.0\u00a0% (Wilson 95%); n\u00a0=\u00a01,000; chance 16.7 %",
        "41.2",
        "12,345",
        "50.0\u00a0%",
        "A paragraph.",
        "Wilson.",
        "A line.",
        "How.",
        "model:\n  representation: artifact",
        "2.14",
    ):
        assert text in page.text
    assert len(page.all("details")) == 3


def test_page_needs_nothing_from_elsewhere(tmp_path: Path):
    page = report(tmp_path)
    assert not page.all("script")
    assert not page.all("link")
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#"))
    text = (tmp_path / "report.html").read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_links_within_the_page_lead_somewhere(tmp_path: Path):
    page = report(tmp_path)
    targets = [attributes["href"] for attributes in page.all("a")]
    assert (
        targets
        == [f"#{attributes['id']}" for attributes in page.all("section")]
        == ["#sources", "#method", "#provenance"]
    )


def test_figures_are_inside_with_their_alternative_text(tmp_path: Path):
    (image,) = report(tmp_path).all("img")
    assert image["alt"] == "a rising line"
    content = base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,"))
    width, height = Image.open(BytesIO(content)).size
    assert (image["width"], image["height"]) == (str(round(width / 1.7)), str(round(height / 1.7)))


def test_numbers_stand_flush_right(tmp_path: Path):
    headers = report(tmp_path).all("th")
    assert [header.get("class") for header in headers[:4]] == [None, "number", "number", None]
    table = Table(["a", "b"], [["71 ± 1 %", "x"]], right=["a"])
    assert table.numeric == [True, False]


def test_markup_is_escaped_everywhere(tmp_path: Path):
    page = report(tmp_path, evil=EVIL)
    assert not page.all("script")
    assert page.text.count(EVIL) == 17  # the title and a linked heading stand twice
    assert page.all("img")[0]["alt"] == f"a rising line{EVIL}"


def test_same_content_gives_the_same_page(tmp_path: Path):
    report(tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == first


def test_png_bytes_and_files_are_taken(tmp_path: Path):
    Image.new("RGB", (30, 20)).save(tmp_path / "x.png")
    for figure in (tmp_path / "x.png", (tmp_path / "x.png").read_bytes()):
        block = FigureBlock(figure, "black", "a black rectangle")
        assert block.size == (30, 20)


def test_mistakes_are_found_before_anything_is_written(tmp_path: Path):
    path = tmp_path / "report.html"
    with pytest.raises(ValueError, match="no alternative text"):
        FigureBlock(drawing(), "A line.", " ")
    with pytest.raises(ValueError, match="row 1 has 1 cells; expected 2"):
        Table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(ValueError, match=r"\['c'\]"):
        Table(["a", "b"], [], percent=["c"])
    with pytest.raises(ValueError, match=r"\['FDR', 'fdr'\] have the same name"):
        render_report(path, title="", summary=Summary(), sections=[Section("FDR", []), Section("fdr", [])])
    with pytest.raises(ValueError, match="is no PNG"):
        render_report(
            path, title="", summary=Summary(), sections=[Section("a", [FigureBlock(b"GIF89a", "moving", "a gif")])]
        )
    assert list(tmp_path.iterdir()) == []


def test_undefined_numbers_are_dashes():
    headline = Headline.of("Recall", Estimate(float("nan"), None, None, 0, "none"), percent=True)
    assert (headline.value, headline.note) == ("–", "n\u00a0=\u00a00")
    assert Table(["a"], [[None]]).shown == [[("–", "")]]


def test_warnings_stand_above_the_numbers(tmp_path: Path):
    told = f"Unfinished training.{EVIL}"
    path = tmp_path / "report.html"
    summary = Summary("Six sources.", [Headline("Accuracy", "71.3 %")], warnings=[told])
    render_report(path, title="t", summary=summary, sections=[])
    page = Page(path.read_text())
    (warning,) = [attributes for attributes in page.all("p") if attributes.get("class") == "warning"]
    assert warning["role"] == "note"
    assert page.text.index(told) < page.text.index("71.3 %")
    render_report(path, title="t", summary=Summary("Six sources."), sections=[])
    assert "Unfinished" not in path.read_text()
