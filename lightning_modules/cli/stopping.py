"""SIGTERM and SIGINT (Ctrl-C): every command obeys them within seconds, and says how to go on.

A signal raises `Stopped` in the main thread, wherever Python runs, so that half-written files vanish and logs are
closed. A thread watches meanwhile: where the main thread cannot be reached, as in a collective operation that waits for
another process, it ends this one after some seconds.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from lightning_modules.cli.processes import is_launched, local_rank, rank
from lightning_modules.common.lifeline import Ending, Lifeline

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_SECONDS = 4.0  # for files and logs to be closed; then the process ends whatever it does
GO_ON = "stopped; what is finished is kept, and the same command goes on from there"
_AGAIN_SECONDS = 0.5  # after which another Ctrl-C means it
_PARENT_DEATH_SIGNAL = 1  # of prctl


class Stopped(BaseException):  # no error: somebody asked for it
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class Process:
    """What has to be known of this process when it ends before its time."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget an earlier command."""
        self.lifeline = Lifeline()
        self.connected = False  # whether a connection has been tried
        self.size = 2  # processes of the run, once that is known
        self.warn: Callable[[str], None] = lambda text: None  # tells a warning of another process
        self.pass_warnings_on: Callable[[], None] = lambda: None  # gives those that wait to the first process
        self.how_to_go_on: Callable[[], str] = lambda: GO_ON
        self.started: list[Callable[[int], None]] = []  # each sends a signal to processes that this one has started
        self.signal: int | None = None  # the one that asked it to end
        self.raised = False  # whether the main thread has been told
        self.grace = GRACE_SECONDS
        self.launcher: int | None = None  # pid of the process of the same run that has started this one

    def stop(self) -> Ending:
        """How a run ends that a signal has stopped."""
        number = self.signal or signal.SIGINT
        if self.launcher is not None and os.getppid() != self.launcher:  # the system's signal for that
            death = Ending.death(0, int(os.environ.get("WORLD_SIZE", self.size)))
            return death if local_rank() == 1 else replace(death, message="")
        try:
            message = self.how_to_go_on()
        except (OSError, ValueError, RuntimeError):
            message = GO_ON
        return Ending("stop", message, 128 + number)

    def leave(self, ending: Ending, tell: bool) -> None:
        """End this process at once, and what it has started; some thread waits for ever otherwise."""
        if tell and ending.message:
            with suppress(OSError, ValueError):
                sys.stderr.write(f"{_new_line()}{ending.message}\n")
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        self.end_started()
        os._exit(ending.status)

    def end_started(self) -> None:
        """End workers and processes of the same run that this one has started."""
        for kill in self.started:
            with suppress(OSError):
                kill(signal.SIGKILL)
        with suppress(OSError, ValueError, AssertionError):
            for worker in multiprocessing.active_children():
                worker.kill()


THIS = Process()
"""The one that runs."""


def _new_line() -> str:
    """What to begin a message with: a bar that has not ended leaves its line open."""
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    return "\n" if len(getattr(bars, "_instances", ())) else ""


@contextmanager
def obey_signals() -> Iterator[None]:
    """Within the block, signals raise `Stopped`; if that gets nowhere, the process is ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    THIS.begin()
    if is_launched():
        THIS.launcher = os.getppid()
        end_with_launcher(True)
    heard, rings = socket.socketpair()
    rings.setblocking(False)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _raise)
    descriptor = signal.set_wakeup_fd(rings.fileno(), warn_on_full_buffer=False)
    finished = threading.Event()
    watching = threading.Thread(target=_watch, args=(heard, finished), name="signals", daemon=True)
    watching.start()
    _at_fork()
    try:
        yield
    finally:
        finished.set()
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        rings.close()
        watching.join()  # or it tells the next command of a signal that was for this one


def handlers_are_ours() -> bool:
    """Whether `obey_signals` holds in this process."""
    return signal.getsignal(signal.SIGTERM) is _raise or signal.getsignal(signal.SIGINT) is _raise


def end_with_launcher(wanted: bool) -> None:
    """Ask the system to send SIGTERM when the process that has started this one dies (Linux), or no longer."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM if wanted else 0, 0, 0, 0)


def _raise(number: int, frame: Any) -> None:
    THIS.signal = THIS.signal or number
    if not THIS.raised:
        THIS.raised = True
        raise Stopped(number)


def _watch(heard: socket.socket, finished: threading.Event) -> None:
    """Wait for signals, whatever the main thread does; the system writes their numbers here."""
    first = None
    with heard:
        while not finished.is_set():
            left = None if first is None else first + THIS.grace - time.monotonic()
            if left is not None and left <= 0:
                break
            if not select.select([heard], [], [], left)[0]:
                continue
            numbers = [number for number in heard.recv(4096) if number in SIGNALS]
            if finished.is_set():
                return
            if not numbers:
                continue
            if first is None:
                first = time.monotonic()
            elif signal.SIGINT in numbers and time.monotonic() - first > _AGAIN_SECONDS:
                break
            THIS.signal = THIS.signal or numbers[0]
    if first is not None and not finished.is_set():
        ending = THIS.stop()
        if THIS.lifeline.active:
            THIS.lifeline.report(ending)
        THIS.leave(ending, rank() == 0 or ending.kind == "died")


_forks_known = False


def _at_fork() -> None:
    global _forks_known
    if not _forks_known:
        _forks_known = True
        os.register_at_fork(after_in_child=_forget_in_fork)


def _forget_in_fork() -> None:
    """A worker is ended by the process that has started it; the terminal's Ctrl-C, which it gets too, is for that."""
    if handlers_are_ours():
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
