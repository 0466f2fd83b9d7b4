"""Processes that watch each other: real ones, killed and failing, without torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_modules.common.lifeline import Ending, _First, _listen

ROOT = Path(__file__).parents[2]
GO_ON = "what is finished is kept, and the same command goes on from there"
SCRIPT = """
import json, os, sys, time
from pathlib import Path
from lightning_modules.common.lifeline import Ending, hold_lifeline
rank, size, folder, what = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]

def share(place):
    file = folder / "place.json"
    if rank == 0:
        (folder / "beside").write_text(json.dumps(place))
        (folder / "beside").rename(file)
        return place
    while not file.exists():
        time.sleep(0.01)
    return json.loads(file.read_text())

def leave(ending, tell):
    if tell:
        sys.stderr.write(ending.message + "\\n")
        sys.stderr.flush()
    os._exit(ending.status)

def warn(text):
    sys.stderr.write(text + "\\n")
    (folder / "warned").touch()

line = hold_lifeline(rank, size, "127.0.0.1", share, leave, warn)
assert line.active
if what == "worker" and os.fork() == 0:
    time.sleep(20)  # as a worker of a data loader does, which has copies of all that is open
    os._exit(0)
(folder / f"ready-{rank}").touch()
if what == "all mistaken" or (what == "one fails" and rank == 2):
    kind, status = ("mistake", 2) if what == "all mistaken" else ("error", 1)
    line.report(Ending(kind, f"{what}, said by {rank}", status, rank))
if what == "done":
    if rank:
        line.warn("a warning")
        time.sleep(0.2 * rank)
    until = time.monotonic() + 10
    while not (folder / "warned").exists() and time.monotonic() < until:
        time.sleep(0.01)  # on a busy machine the first one would be gone before anybody has spoken
    line.close()
    time.sleep(0.3)
    sys.exit()
time.sleep(20)
"""


def started(folder: Path, what: str, size: int = 3) -> list[subprocess.Popen[str]]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(size), str(folder), what],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        for rank in range(size)
    ]
    until = time.monotonic() + 30
    while len(list(folder.glob("ready-*"))) < size and time.monotonic() < until:
        time.sleep(0.01)
    return processes


def ended(processes: list[subprocess.Popen[str]], within: float = 5.0) -> tuple[list[int], str]:
    """Statuses of all, and what they said together, once all have gone."""
    until = time.monotonic() + within
    for process in processes:
        process.wait(max(0.1, until - time.monotonic()))
    said = "".join(process.stderr.read() for process in processes)
    for process in processes:
        process.stderr.close()
    return [process.returncode for process in processes], said


@pytest.mark.parametrize("what", ["wait", "worker"])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_process_ends_the_others_with_one_line(victim, what, tmp_path):
    processes = started(tmp_path, what)
    processes[victim].kill()
    if what == "worker":  # its standard error stays open while its workers live
        for process in processes:
            process.wait(5)
            os.killpg(process.pid, signal.SIGKILL)
    statuses, said = ended(processes)
    assert said == f"error: process {victim + 1} of 3 has died (killed? out of memory?); {GO_ON}\n"
    assert statuses == [-signal.SIGKILL if rank == victim else 1 for rank in range(3)]


@pytest.mark.parametrize(("what", "said", "status"), [("all mistaken", 0, 2), ("one fails", 2, 1)])
def test_an_error_is_told_once_and_gives_all_its_status(what, said, status, tmp_path):
    assert ended(started(tmp_path, what)) == ([status] * 3, f"{what}, said by {said}\n")


def test_processes_that_have_done_their_part_are_not_missed_and_warnings_are_passed_on(tmp_path):
    statuses, said = ended(started(tmp_path, "done"))
    assert statuses == [0, 0, 0]
    assert set(said.splitlines()) == {"a warning"}  # told once by whoever shows them


def test_a_stranger_can_neither_stop_a_run_nor_say_anything():
    listener, heard = _listen("127.0.0.1"), []
    first = _First(2, listener, "secret", lambda ending, tell: heard.append(ending), heard.append)
    for said in ({"token": "guess", "rank": 1}, {"kind": "stop", "message": "x", "status": 0}, {"warning": "x"}, []):
        with socket.create_connection(listener.getsockname()) as stranger:
            stranger.sendall(json.dumps(said).encode() + b"\nnonsense\n")
            assert stranger.recv(10) == b""  # the connection is closed
    time.sleep(0.7)
    assert heard == []
    first.close()


def test_the_cause_is_told_where_effects_came_first():
    listener, told = _listen("127.0.0.1"), []
    first = _First(3, listener, "secret", lambda ending, tell: told.append(ending) or first.close(), told.append)
    first.notices.put(Ending("error", "connection closed by peer", 1))
    first.wakes.send(b"!")
    time.sleep(0.1)
    first.notices.put(Ending("stop", "stopped", 143))
    first.notices.put(Ending.death(2, 3))
    time.sleep(1)
    assert [ending.kind for ending in told] == ["died"]
    assert told[0].rank == 2


def test_an_address_that_this_machine_does_not_have_gives_no_listener():
    assert _listen("192.0.2.1") is None


def test_a_name_that_means_this_machine_here_alone_is_listened_to_at_all_addresses(monkeypatch):
    """As `/etc/hosts` has it on many systems: the name of the machine stands for 127.0.1.1."""
    found = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    for host, address in (("node-0", "0.0.0.0"), ("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")):
        with _listen(host) as listener:
            assert listener.getsockname()[0] == address
