"""A child ends with its parent, and processes take turns."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

import pytest
from killing import alive, kill, start, wait_until

from lightning_modules.common import child_processes
from lightning_modules.common.child_processes import die_with_parent
from lightning_modules.common.locks import one_at_a_time


def _parent_of(file, watched):
    def child():
        if watched:  # as on a system without prctl
            child_processes.sys = type("system", (), {"platform": "other"})
            child_processes._SECONDS = 0.05
        die_with_parent(parent)
        file.write_text(str(os.getpid()))
        signal.pause()

    parent = os.getpid()
    multiprocessing.get_context("fork").Process(target=child).start()
    signal.pause()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("watched", [False, True])
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path, watched):
    process = start(_parent_of, tmp_path / "child", watched)
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text(), process)
    (child,) = kill(process)
    wait_until(lambda: not alive(child), seconds=3)


def _hold(folder, seconds):
    with one_at_a_time(folder / "lock", "at work") as alone:
        (folder / "inside").write_text(str(alone))
        time.sleep(seconds)


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    process = start(_hold, tmp_path, 60)
    wait_until(lambda: (tmp_path / "inside").exists(), process)
    kill(process)
    began = time.monotonic()
    with one_at_a_time(tmp_path / "lock", "at work") as alone:
        assert alone
    assert time.monotonic() - began < 1


def test_who_waits_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lightning_modules.common.locks._PATIENCE", 0.1)
    process = start(_hold, tmp_path, 1)
    wait_until(lambda: (tmp_path / "inside").exists(), process)
    with one_at_a_time(tmp_path / "lock", "at work") as alone:
        assert alone
        process.join(5)
    assert capsys.readouterr().err == "note: another process is at work; waiting for it\n"


def test_where_no_lock_can_be_made_nobody_waits(tmp_path):
    with one_at_a_time(tmp_path / "nowhere" / "lock" / "x", "at work") as alone:
        assert alone in (True, False)
    (tmp_path / "folder").mkdir()
    with one_at_a_time(tmp_path / "folder", "at work") as alone:  # a folder can be no lock
        assert not alone
