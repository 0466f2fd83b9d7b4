"""`evaluate.py compare`: what it prints and writes, how it refuses, and what it imports."""

from __future__ import annotations

import html.parser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from evaluated_runs import attributor_run, fingerprint_run, unfinish

from lightning_modules.cli.compare import compare

ROOT = Path(__file__).parents[2]
SLOW = ("torch", "pytorch_lightning", "matplotlib", "pandas", "wandb", "torchmetrics", "sklearn")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    runs = [fingerprint_run(folder / name, decoder=name, skill=skill) for name, skill in (("a", 0.94), ("b", 0.98))]
    runs.append(unfinish(fingerprint_run(folder / "killed", decoder="c"), 1))
    compare([*map(str, runs), "--out", str(folder / "out")])
    return folder / "out" / "comparison.html"


def test_files_and_the_folder_on_the_last_line(tmp_path, capsys):
    runs = [str(attributor_run(tmp_path / name, representation=name)) for name in ("artifact", "raw")]
    compare([*runs, "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["comparison.csv", "comparison.html", "comparison.md", "conditions.csv", "differences.csv"]


def test_mistakes_end_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="absent is no folder"):
        compare([str(tmp_path / "absent")])
    broken = fingerprint_run(tmp_path / "broken", kinds=["jpeg"])
    (broken / "evaluation.json").write_text("[1]")
    (broken / "provenance.json").write_text("{")
    with pytest.raises(SystemExit, match=r"evaluation.json holds a list"):
        compare([str(broken)])
    for content, message in (
        ('{"format": 2}', "is of format 2, expected 1"),
        ('{"format": 1, "parts": []}', "expected parts"),
    ):
        (broken / "evaluation.json").write_text(content)
        with pytest.raises(SystemExit, match=message):
            compare([str(broken)])
    (broken / "evaluation.json").unlink()
    with pytest.raises(SystemExit, match=r"provenance.json is no JSON"):
        compare([str(broken)])


def test_it_needs_neither_torch_nor_matplotlib(tmp_path):
    runs = [str(fingerprint_run(tmp_path / name, decoder=name)) for name in ("a", "b")]
    code = (
        "import sys; from lightning_modules.cli.entry import run; "
        f"run(['compare', *{runs!r}, '--out', {str(tmp_path / 'out')!r}]); "
        f"print('found', [name for name in {SLOW!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "found []"


class Loaded(html.parser.HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "srcset", "data", "poster") and not (value or "").startswith(("#", "data:")):
                self.found.append(f"{tag} {name}={value}")


def test_the_page_loads_nothing(page):
    loaded = Loaded()
    text = page.read_text()
    loaded.feed(text)
    assert loaded.found == []
    assert "@import" not in text
    assert "url(" not in text
    assert text.count("<script>") == 1


def test_the_page_says_what_is_left_aside_and_has_every_section(page):
    text = page.read_text()
    assert "killed is unfinished: 1 of 4 blocks are done" in text
    for title in ("Results", "Robustness", "Differences from fingerprint/a", "Every number", "Runs"):
        assert f"<h2>{title}</h2>" in text
    assert text.count("<svg viewBox") == 4 * 4 + 4 * 2  # metrics x kinds, and a legend's line for each experiment
    assert text.count("as a table</summary>") == 4 + 1  # beneath every metric's curves, and of all numbers


SCRIPT = """
<script>
const every = [...document.querySelectorAll("table.sortable")];
const tables = every.filter((each) => each.textContent.includes("difference"));
const table = tables.find((each) => each.rows.length > 9);  // those that are all in sight have no filter
table.closest("details").open = true;
const column = [...table.tHead.rows[0].cells].findIndex((each) => each.textContent === "difference");
const field = table.parentElement.previousElementSibling.querySelector("input");
const read = () => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[column].dataset.key);
const head = table.tHead.rows[0].cells[column], button = head.querySelector("button"), said = {};
button.click(); said.up = read(); said.upSort = head.getAttribute("aria-sort");
button.click(); said.down = read(); said.downSort = head.getAttribute("aria-sort");
field.value = "BIT jpeg_"; field.dispatchEvent(new Event("input")); said.bits = read();
said.count = table.parentElement.previousElementSibling.querySelector("output").value;
button.focus(); said.focus = document.activeElement === button;
said.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
document.title = JSON.stringify(said);
</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_tables_sort_and_filter_in_a_browser(page, tmp_path):
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", SCRIPT))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=500,900", "--dump-dom", copy.as_uri()]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=120)
    title = html.unescape(done.stdout.partition("<title>")[2].partition("</title>")[0])
    said = json.loads(title)
    numbers = [float(number) for number in said["up"]]
    assert numbers == sorted(numbers)
    assert len(numbers) == 27 * 4
    assert [float(number) for number in said["down"]] == sorted(numbers, reverse=True)
    assert (said["upSort"], said["downSort"]) == ("ascending", "descending")
    assert len(said["bits"]) == 8
    assert said["count"] == "8 of 108 rows"
    assert said["focus"]  # a button, which Enter and the space bar press
    assert not said["wide"]  # tables scroll in their own frame
