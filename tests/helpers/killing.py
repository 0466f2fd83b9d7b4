"""Work in a process of its own, which is watched, and killed in the middle."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path


def start(work: Callable[..., object], *arguments: object) -> BaseProcess:
    """Begin the work; a fork has everything imported already."""

    def run() -> None:
        os.setsid()  # what ends here leaves the tests alone
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work(*arguments)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def wait_until(condition: Callable[[], object], process: BaseProcess | None = None, seconds: float = 60.0) -> None:
    """Wait; a process that ends before is an error."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.is_alive(), f"it ended with {process.exitcode}"
        assert time.monotonic() < end, "it has not come to that"
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """Processes below one, on Linux."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def kill(process: BaseProcess, number: int = signal.SIGKILL) -> list[int]:
    """Kill the process, and give its descendants, dead or alive."""
    assert process.pid is not None
    below = descendants(process.pid)
    os.kill(process.pid, number)
    process.join(20)
    return below
