"""Commands obey SIGTERM and Ctrl-C, wherever they are: real processes and real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_modules.cli.errors import run_command
from lightning_modules.cli.stopping import GO_ON, THIS

ROOT = Path(__file__).parents[2]
SCRIPT = '''
import hashlib, os, signal, sys, time
from pathlib import Path
from lightning_modules.cli.errors import run_command
from lightning_modules.common.files import atomic_file

def search():
    """Steps that take any error for a step that did not work, as a search may."""
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass

def writing():
    with atomic_file(Path("result.json")) as partial, partial.open("w") as file:
        file.write("half")
        file.flush()
        while True:
            time.sleep(0.01)

def swallowing():
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass

def in_c():
    signal.pthread_sigmask(signal.SIG_BLOCK, [])
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2_000_000_000)  # Python does not run meanwhile

def worker():
    if os.fork() == 0:
        time.sleep(30)  # gets the terminal's Ctrl-C as well, and says nothing
        os._exit(0)
    time.sleep(30)

def main():
    from lightning_modules.cli.stopping import THIS
    THIS.grace = float(sys.argv[2])
    Path("ready").touch()
    globals()[sys.argv[1]]()

if "NOHUP" not in os.environ:  # a background job of a shell, of which this may be one, ignores Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
run_command(main)
'''


@pytest.fixture(autouse=True)
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(folder: Path, what: str, grace: float = 4.0, **environment: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), what, str(grace)], cwd=folder, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 30
    while not (folder / "ready").exists() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    return process


def said(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=10)[1]


@pytest.mark.parametrize("what", ["search", "writing", "swallowing", "in_c", "worker"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_ends_within_seconds_and_says_how_to_go_on(what, number, status, tmp_path):
    process = started(tmp_path, what, grace=0.5)
    os.killpg(process.pid, number) if what == "worker" else process.send_signal(number)
    process.wait(5)
    os.killpg(process.pid, signal.SIGKILL) if what == "worker" else None  # as one that does not end with its parent
    assert said(process) == f"{GO_ON}\n"
    assert process.returncode == status
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ready", "script.py"]  # nothing half written


def test_a_second_interrupt_is_obeyed_at_once(tmp_path):
    process = started(tmp_path, "swallowing", grace=30.0)
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    assert said(process) == f"{GO_ON}\n"
    assert process.returncode == 130


@pytest.mark.parametrize("environment", [{"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, {"SLURM_PROCID": "3"}])
def test_of_several_processes_that_are_stopped_the_first_speaks(environment, tmp_path):
    process = started(tmp_path, "search", **environment)
    process.send_signal(signal.SIGTERM)
    assert said(process) == ""
    assert process.returncode == 143


def test_what_a_command_says_of_going_on_and_handlers_of_before(capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def stopped():
        THIS.how_to_go_on = lambda: "stopped; go on with that"
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        run_command(stopped)
    assert left.value.code == 143
    assert capsys.readouterr().err == "stopped; go on with that\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(SystemExit):
        run_command(lambda: signal.raise_signal(signal.SIGINT))
    assert capsys.readouterr().err == f"{GO_ON}\n"  # the next command has its own


def test_an_error_of_a_process_that_was_told_to_stop_is_no_error(capsys):
    def broken():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise RuntimeError("connection closed by peer")

    with pytest.raises(SystemExit) as left:
        run_command(broken)
    assert left.value.code == 143
    assert "peer" not in capsys.readouterr().err


def test_nohup_is_respected(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), "search", "1"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as nohup and a shell's & do
        env={**os.environ, "PYTHONPATH": str(ROOT), "NOHUP": "1"},
    )  # fmt: skip
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    assert GO_ON in said(process)
