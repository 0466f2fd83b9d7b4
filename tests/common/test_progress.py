"""Long work says how far it is: on a terminal and in a log, and nothing where it is quick."""

from __future__ import annotations

import io
import re
import sys

import pytest

from lightning_modules.common import progress
from lightning_modules.common.progress import Progress
from lightning_modules.generators.image_writing import generate_sources


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def work(clock, seconds, steps=60, total=600, visible=True):
    with Progress("embedding reals", total, shown=visible) as shown:
        for _ in range(steps):
            clock.now += seconds / steps
            shown.update(10)


def test_quick_work_says_nothing(clock, capsys):
    work(clock, 1.9)
    assert capsys.readouterr().err == ""


def test_nothing_is_said_where_nobody_asked(clock, capsys):
    work(clock, 300, visible=False)
    assert capsys.readouterr().err == ""


def test_images_that_are_made_into_a_log_get_lines(clock, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    generate_sources({"a": "gan-dcgan"}, {"a": tmp_path}, 64, 0)
    assert re.fullmatch(r"making images: 32 of 64 images, \d+ s left\n", capsys.readouterr().err)


def test_a_log_gets_a_line_every_half_minute(clock, capsys):
    work(clock, 120)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "embedding reals: 10 of 600 images, 118 s left".replace("118 s", "2 min"),
        "embedding reals: 160 of 600 images, 88 s left",
        "embedding reals: 310 of 600 images, 58 s left",
        "embedding reals: 460 of 600 images, 28 s left",
    ]


def test_where_nobody_knows_the_total_a_count_is_shown(clock, capsys):
    work(clock, 5, total=None)
    assert re.fullmatch(r"embedding reals: \d+ images\n", capsys.readouterr().err)


def test_a_terminal_gets_one_line_that_moves(clock, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    work(clock, 10)
    shown = terminal.getvalue()
    assert shown.startswith("\rembedding reals:")
    assert "600/600" in shown
    assert shown.count("\n") == 1
